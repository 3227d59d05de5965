"""`normal` is the denial of findings: it is answered by what the findings answer, not by a vector of its own.

Asked like a finding, its answer rests on what normal films of the training hospital look like: on films of another
hospital (NIH) its AUROC was .42, that of the findings' mean logit with the sign turned .69.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.knowledge import FINDING_PREFIX, NORMAL, AskedConcept
from vlp.types import Query, TargetValue

NORMAL_CONCEPT = FINDING_PREFIX + NORMAL


@dataclass(frozen=True, slots=True)
class Denial:
    """Logit of `normal` = offset + scale x mean logit of all other findings that were taught.

    The set of findings is that of the model, so the answer does not hang on what else is asked.
    """

    scale: float
    offset: float

    def weight(self, columns: Sequence[int], width: int) -> Tensor:
        """What each of `width` logits counts for, when the findings' are in `columns`: float32 [width]."""
        counted = torch.bincount(torch.tensor(columns), minlength=width)
        return counted * (self.scale / len(columns))


def fit_denial(queries: Sequence[AskedConcept], targets: Tensor, logits: Tensor) -> Denial | None:
    """Fit to what reports say (logistic regression), so that the probability has a level.

    Args:
        queries: What was taught, [Q].
        targets: int8 [n, Q], values of `TargetValue`.
        logits: float [n, Q].

    Returns:
        None if `normal` or every finding is missing, or the reports call all films or none normal, or the findings are
        not lower on the normal ones.
    """
    findings = denied_rows(queries)
    column = next((row for row, query in enumerate(queries) if query.concept == NORMAL_CONCEPT), None)
    if column is None or not findings:
        return None
    known = (targets[:, column] == TargetValue.PRESENT) | (targets[:, column] == TargetValue.ABSENT)
    truth = (targets[known, column] == TargetValue.PRESENT).numpy()
    if truth.all() or not truth.any():
        return None
    from sklearn.linear_model import LogisticRegression  # slow to import, and predictions fit nothing

    level = logits[known][:, findings].double().mean(1, keepdim=True).numpy()
    fitted = LogisticRegression().fit(level, truth)
    scale = float(fitted.coef_[0, 0])
    return Denial(scale, float(fitted.intercept_[0])) if scale < 0 else None


def denied_rows(queries: Sequence[AskedConcept]) -> list[int]:
    """Rows of the findings that `normal` denies."""
    return [row for row, query in enumerate(queries) if query.is_finding and query.concept != NORMAL_CONCEPT]


def answer_normal(logits: Tensor, queries: Sequence[AskedConcept], denial: Denial | None) -> Tensor:
    """Logits of everything taught, float [n, Q], with the column of `normal` answered by the findings."""
    findings = denied_rows(queries)
    if denial is None or not findings:
        return logits
    normal = torch.tensor([query.concept == NORMAL_CONCEPT for query in queries])
    denied = denial.offset + logits @ denial.weight(findings, logits.shape[1]).to(logits)
    return torch.where(normal, denied[:, None], logits)


@dataclass(frozen=True)
class ResolvedQueries:
    """Queries ready to be asked.

    Attributes:
        queries: One per thing asked, in the order asked, [Q].
        vectors: float32 [K, E], what the network is asked: first each query's own vector, then whatever else their
            answers rest on.
        weight: float32 [Q, K]; the answers are a linear function of the network's logits. None: its own alone.
        offset: float32 [Q].
    """

    queries: tuple[Query, ...]
    vectors: Tensor
    weight: Tensor | None = None
    offset: Tensor | None = None

    def read(self, logits: Tensor) -> Tensor:
        """Logits of the network, float [B, K], to those of the queries, float [B, Q]."""
        if self.weight is None or self.offset is None:
            return logits
        return logits @ self.weight.to(logits).T + self.offset.to(logits)

    def only(self, rows: Sequence[int]) -> ResolvedQueries:
        """Some of the queries; each gets the answer it had."""
        queries, chosen = tuple(self.queries[row] for row in rows), list(rows)
        if self.weight is None or self.offset is None:
            return ResolvedQueries(queries, self.vectors[chosen])
        weight = self.weight[chosen]
        rest = [column for column in weight.any(dim=0).nonzero().ravel().tolist() if column not in chosen]
        columns = [*chosen, *rest]
        return ResolvedQueries(queries, self.vectors[columns], weight[:, columns], self.offset[chosen])


def resolve_denial(
    queries: Sequence[Query], own: Tensor, taught: tuple[Sequence[AskedConcept], Tensor], denial: Denial | None
) -> ResolvedQueries:
    """Queries with their own vectors, and for `normal` those of the findings it denies.

    Args:
        queries: What is asked, [Q].
        own: float32 [Q, E].
        taught: What the model was taught, and the vectors of that, float32 [T, E].
        denial: None: `normal` is asked like any other.
    """
    normal = [row for row, query in enumerate(queries) if query.concept == NORMAL_CONCEPT]
    findings = denied_rows(taught[0])
    if denial is None or not normal or not findings:
        return ResolvedQueries(tuple(queries), own)
    vectors, columns = list(own), []
    for vector in taught[1][findings]:  # one that is asked anyway is not asked twice
        same = (own == vector).all(dim=1).nonzero()
        columns.append(int(same[0]) if len(same) else len(vectors))
        if not len(same):
            vectors.append(vector)
    weight, offset = torch.eye(len(queries), len(vectors)), torch.zeros(len(queries))
    weight[normal], offset[normal] = denial.weight(columns, len(vectors)), denial.offset
    return ResolvedQueries(tuple(queries), torch.stack(vectors), weight, offset)
