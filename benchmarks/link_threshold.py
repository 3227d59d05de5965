"""From which search score on may a span be linked? Right and false links at several scores, chosen on one half.

    python benchmarks/link_threshold.py ENCODER OTHER_KG [--others 1500]

Asked are words that no name of the index has: the encoder's held-out synonyms (their concept is there; the index is
built without them), and preferred names of another graph whose concepts the encoder's graph lacks (nothing is right for
them). Printed for the validation and the test names: how many held-out names are linked, how many of these rightly, how
many of the others are linked, which is always wrong, and the precision if both kinds are as frequent.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.names import normalise
from kgkit.evaluation.held_out_files import read_held_out_names
from kgkit.graph.store import KnowledgeGraph
from kgkit.linking.names import is_usable_name, looks_abbreviated, mention_kind
from kgkit.linking.tokens import tokenize
from kgkit.search.build import build_index
from kgkit.search.concept_search import ConceptSearch, open_search
from kgkit.types import MentionKind

SCORES = (0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
Query = tuple[str, MentionKind, frozenset[str]]
"""Words, kind, and the concepts that are right."""


def may_be_searched(name: str) -> bool:
    """As kgkit.linking.spans has it."""
    return is_usable_name(name, tokenize(name).words) and not looks_abbreviated(name)


def held_out(encoder: ConceptEncoder, part: str) -> Iterator[Query]:
    """Held-out synonyms with their concepts."""
    table = read_held_out_names(encoder.folder)
    for name, rows in table.filter(pl.col("part") == part).select("name", "concepts").iter_rows():
        concepts = frozenset(encoder.concepts[row] for row in rows)
        kind = mention_kind(encoder.semantic_types(min(concepts)))
        if kind is not None and may_be_searched(name):
            yield name, kind, concepts


def unknown(encoder: ConceptEncoder, kg: Path, count: int) -> list[Query]:
    """Preferred names of concepts that are in another graph and not in the encoder's, seeded."""
    table = pl.read_parquet(KnowledgeGraph(kg).views / "concepts.parquet")
    names = {normalise(name) for name in encoder.names["name"]} | {normalise(name) for name in encoder.table["name"]}
    codes = set(encoder.table["codes"].explode().drop_nulls()) | set(encoder.concepts)
    found: list[Query] = []
    columns = ("concept", "name", "semantic_types", "codes")
    for concept, name, types, own in table.select(columns).sample(fraction=1, shuffle=True, seed=0).iter_rows():
        kind = mention_kind(tuple(types or ()))
        is_new = name and normalise(name) not in names and codes.isdisjoint([concept, *(own or ())])
        if kind is not None and is_new and may_be_searched(name):
            found.append((name, kind, frozenset()))
    return found[:count]


def answers(search: ConceptSearch, queries: list[Query]) -> tuple[np.ndarray, np.ndarray]:
    """Best score, and whether the best concept is right, of each query; float64 [Q], bool [Q]."""
    scores, right = [], []
    for text, kind, concepts in queries:
        hits = (hit for hit in search.search([text], 20)[0] if mention_kind(hit.semantic_types) is kind)
        hit = next(hits, None)
        scores.append(hit.score if hit else 0.0)
        right.append(hit is not None and hit.concept in concepts)
    return np.array(scores), np.array(right)


def main(folder: Path, kg: Path, count: int) -> None:
    """Measure and print."""
    encoder = load_encoder(folder)
    left_out = {normalise(name) for name in read_held_out_names(folder)["name"]}
    keep = [normalise(name) not in left_out for name in encoder.names["name"]]
    others = unknown(encoder, kg, count)
    with tempfile.TemporaryDirectory() as scratch:
        build_index(folder, names=encoder.names.filter(pl.Series(keep)), out=Path(scratch) / "index")
        search = open_search(folder, Path(scratch) / "index")
        for part, strangers in (("valid", others[::2]), ("test", others[1::2])):
            scores, right = answers(search, list(held_out(encoder, part)))
            false = answers(search, strangers)[0]
            print(f"{part}: {len(scores):,} held-out names, the best hit is right for {right.mean():.3f}; "
                  f"{len(false):,} names of unknown concepts")  # fmt: skip
            for bar in SCORES:
                linked, wrong = scores >= bar, (false >= bar).mean()
                precision = (right & linked).mean() / max(linked.mean() + wrong, 1e-9)
                print(f"  score {bar:.2f}: linked {linked.mean():.3f}, of these right {right[linked].mean():.3f}; "
                      f"unknown ones linked {wrong:.3f}; precision at equal shares {precision:.3f}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("other_kg", type=Path, help="a graph with more concepts than the encoder's")
    parser.add_argument("--others", type=int, default=1500)
    options = parser.parse_args()
    main(options.encoder, options.other_kg, options.others)
