"""Entity linking on the NCBI disease corpus: a mention's words, alone or in their text, against all names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kgkit.arrays import DoubleArray
from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.names import normalise
from kgkit.errors import InputError
from kgkit.evaluation.name_bank import TextQueries, name_bank, queries_of, retrieval_ranks
from kgkit.evaluation.outcomes import Answer, rank_outcomes
from kgkit.evaluation.pubtator import DiseaseMention, corpus_file, read_documents, read_pubtator
from kgkit.evaluation.retrieval import NO_TEXT, MakeScores, by_grams, by_vectors
from kgkit.evaluation.search_quality import search_index, searched_ranks
from kgkit.linking.abbreviations import find_abbreviations, write_out
from kgkit.resources import resource
from kgkit.search.concept_search import LEXICAL, MODES

Rank = Callable[[TextQueries], DoubleArray]
"""Ranks of the right concepts of some queries, float64 [Q], 1-based; infinite where they were not found."""
Words = Callable[[DiseaseMention], str]
"""What a mention's concept is looked up by."""

ALONE, IN_TEXT = "search", "search in text"
"""What concept search is asked: the words of a mention, or those with the abbreviations that its text defines."""
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
    if not encoder.reads_text:
        return Answer(cannot=NO_TEXT)
    return _linking(encoder, corpus_file(data, file), _exact_ranks(encoder, by_vectors))


def lexical_entity_linking(folder: Path, data: Path, file: str | None = None) -> Answer:
    """The same mentions, answered by character n-grams."""
    encoder = load_encoder(folder)
    return _linking(encoder, corpus_file(data, file), _exact_ranks(encoder, by_grams))


def searched_entity_linking(folder: Path, data: Path, file: str | None = None) -> dict[str, Answer]:
    """The same mentions, answered by concept search: both of its sides together, and each alone.

    Returns:
        An answer for each of kgkit.search's modes, by its name with `search: ` before it; and with `search in text: `,
        where abbreviations that title and abstract define are written out first (`kgkit.linking.abbreviations`).
    """
    encoder, path = load_encoder(folder), corpus_file(data, file)
    modes = MODES if encoder.reads_text else (LEXICAL,)
    with search_index(folder) as search:

        def ranks_by(mode: str) -> Rank:
            def rank(queries: TextQueries) -> DoubleArray:
                ids = [frozenset(encoder.concepts[row] for row in rows.tolist()) for rows in queries.split()]
                return searched_ranks(search, mode, queries.texts, ids)

            return rank

        asked = {ALONE: _words, IN_TEXT: _words_in_text(path)}
        return {f"{how}: {mode}": _linking(encoder, path, ranks_by(mode), words)
                for how, words in asked.items() for mode in modes}  # fmt: skip


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


def _exact_ranks(encoder: ConceptEncoder, make_scores: MakeScores) -> Rank:
    """Every concept is scored."""

    def rank(queries: TextQueries) -> DoubleArray:
        scores = make_scores(encoder, name_bank(encoder, all_names=True), queries)
        return retrieval_ranks(scores, queries, len(encoder.concepts), "mentions linked")

    return rank


def _words(mention: DiseaseMention) -> str:
    return mention.text


def _words_in_text(path: Path) -> Words:
    """Mentions with the abbreviations that their document defines written out."""
    forms = {document: find_abbreviations(text) for document, text in read_documents(path).items()}
    return lambda mention: write_out(mention.text, forms.get(mention.document, {}))


def _linking(encoder: ConceptEncoder, path: Path, rank: Rank, words: Words = _words) -> Answer:
    mentions = read_pubtator(path)
    rows = {concept: row for row, concept in enumerate(encoder.concepts)}
    gold = _gold(mentions, encoder, rows, read_mesh_matches())
    reachable = np.array([bool(right) for right in gold])
    about = {"file": path.name, "mentions": len(mentions), "reachable": int(reachable.sum())}
    if not reachable.any():
        return Answer(cannot="the graph has none of the corpus's diseases", about=about, candidates=encoder.concepts)
    texts = [words(mention) for mention in mentions]
    asked = sorted({(text, right) for text, right in zip(texts, gold, strict=True) if right})
    queries = queries_of([text for text, _ in asked], [right for _, right in asked])
    found = dict(zip(asked, rank(queries).tolist(), strict=True))
    ranks = np.array([found.get(pair, np.inf) for pair in zip(texts, gold, strict=True)])
    names = encoder.names["name"].unique().to_list() + encoder.table["name"].to_list()
    known = {normalise(name) for name in names}
    is_hard = reachable & np.array([normalise(mention.text) not in known for mention in mentions])
    units = np.unique([mention.document for mention in mentions], return_inverse=True)[1].reshape(-1)
    labels = [f"{mention.document} {mention.start}-{mention.end} {mention.text}" for mention in mentions]
    outcomes = rank_outcomes(labels, ranks, _HITS, units)
    strata = {"reachable": reachable, "hard": is_hard, "all": np.ones(len(mentions), dtype=np.bool_)}
    parts = {name: outcomes.part(chosen) for name, chosen in strata.items() if chosen.any()}
    about |= {"hard": int(is_hard.sum()), "num_candidates": len(rows), "num_names": len(encoder.names)}
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
