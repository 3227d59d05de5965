"""Entity linking on the NCBI disease corpus: the mention's words alone, against every name of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.names import normalise
from kgkit.errors import InputError
from kgkit.evaluation.name_bank import name_bank, queries_of, retrieval_ranks
from kgkit.evaluation.outcomes import Answer, rank_outcomes
from kgkit.evaluation.pubtator import DiseaseMention, corpus_file, read_pubtator
from kgkit.evaluation.retrieval import NO_TEXT, MakeScores, by_grams, by_vectors
from kgkit.resources import resource

_HITS = (1, 5)


def entity_linking(folder: Path, data: Path, file: str | None = None) -> Answer:
    """Accuracy of the nearest concept to a mention.

    A mention's MeSH ids become concepts through the graph's own codes, or Mondo's exact matches to MeSH
    (ontologies/mondo_mesh.tsv). A mention of several ids is right if any of them is found.

    Args:
        folder: ENCODER.
        data: Folder with NCBI*_corpus.txt.
        file: Which file of it; the development, test or training part if not given.

    Returns:
        Parts `reachable`: mentions with an id that the graph has; `hard`: those among them whose words are no name in
        the graph (see `normalise`); `all`: every mention, the others counted as wrong. `hits_at_1` is the
        accuracy. The resampled unit is the document.
    """
    encoder = load_encoder(folder)
    return _linking(encoder, corpus_file(data, file), by_vectors) if encoder.reads_text else Answer(cannot=NO_TEXT)


def lexical_entity_linking(folder: Path, data: Path, file: str | None = None) -> Answer:
    """The same mentions, answered by character n-grams."""
    return _linking(load_encoder(folder), corpus_file(data, file), by_grams)


def read_mesh_matches(path: Path | None = None) -> dict[str, list[str]]:
    """MeSH CURIE -> Mondo CURIEs that Mondo calls an exact match.

    Args:
        path: A file in the layout of ontologies/mondo_mesh.tsv, which is read if none is given.

    Raises:
        InputError: for a line that is not two CURIEs.
    """
    path = path or resource("ontologies/mondo_mesh.tsv")
    matches: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("#"):
            continue
        mondo, tab, mesh = line.partition("\t")
        if not (tab and mondo.startswith("MONDO:") and mesh.startswith("MESH:")):
            raise InputError(f"expected MONDO:... and MESH:... with a tab between, found {line[:60]!r}", path, number)
        matches.setdefault(mesh, []).append(mondo)
    return matches


def _linking(encoder: ConceptEncoder, path: Path, make_scores: MakeScores) -> Answer:
    mentions = read_pubtator(path)
    rows = {concept: row for row, concept in enumerate(encoder.concepts)}
    gold = _gold(mentions, encoder, rows, read_mesh_matches())
    reachable = np.array([bool(right) for right in gold])
    about = {"file": path.name, "mentions": len(mentions), "reachable": int(reachable.sum())}
    if not reachable.any():
        return Answer(cannot="the graph has none of the corpus's diseases", about=about, candidates=encoder.concepts)
    bank = name_bank(encoder, all_names=True)
    asked = sorted({(mention.text, right) for mention, right in zip(mentions, gold, strict=True) if right})
    queries = queries_of([text for text, _ in asked], [right for _, right in asked])
    scores = make_scores(encoder, bank, queries)
    found = dict(zip(asked, retrieval_ranks(scores, queries, len(rows), "mentions linked").tolist(), strict=True))
    pairs = zip(mentions, gold, strict=True)
    ranks = np.array([found.get((mention.text, right), np.inf) for mention, right in pairs])
    known = {normalise(name) for name in bank.names.unique().to_list()}
    is_hard = reachable & np.array([normalise(mention.text) not in known for mention in mentions])
    units = np.unique([mention.document for mention in mentions], return_inverse=True)[1].reshape(-1)
    labels = [f"{mention.document} {mention.start}-{mention.end} {mention.text}" for mention in mentions]
    outcomes = rank_outcomes(labels, ranks, _HITS, units)
    strata = {"reachable": reachable, "hard": is_hard, "all": np.ones(len(mentions), dtype=np.bool_)}
    parts = {name: outcomes.part(chosen) for name, chosen in strata.items() if chosen.any()}
    about |= {"hard": int(is_hard.sum()), "num_candidates": len(rows), "num_names": len(bank.names)}
    return Answer(parts, about, (), encoder.concepts)


def _gold(
    mentions: Sequence[DiseaseMention],
    encoder: ConceptEncoder,
    rows: Mapping[str, int],
    matches: Mapping[str, Sequence[str]],
) -> list[tuple[int, ...]]:
    """Concept rows of each mention, sorted; none where the graph has none of its ids."""
    gold = []
    for mention in mentions:
        resolved = (encoder.resolve(code) for each in mention.ids for code in (each, *matches.get(each, ())))
        gold.append(tuple(sorted({rows[concept] for concept in resolved if concept is not None})))
    return gold
