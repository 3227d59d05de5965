"""Formats made from the views: tables of concepts and facts for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import polars as pl

from kgkit.arrays import IntArray
from kgkit.graph.exportable import Exportable, WriterOptions
from kgkit.views.groups import semantic_group_of
from kgkit.views.read import read_view
from kgkit.views.splits import split_triples
from kgkit.views.triples import open_triples

_SLICE = 1 << 20
_LINE_END = r"[\r\n\x0b\x0c\x1c-\x1e\x{85}\x{2028}\x{2029}]+"


def write_tsv(source: Exportable, options: WriterOptions, stream: IO[bytes]) -> dict[str, int]:
    """Write one line per fact: head, relation, tail; with names: head, head_name, relation, tail, tail_name.

    The first line names the columns. A field with a tab, a line end or a quote is quoted as in CSV.
    """
    concepts, relations, triples = _views(source)
    labelled = _Labels(concepts, relations, options.with_names)
    stream.write(labelled.of(triples.clear()).write_csv(separator="\t").encode())
    for part in triples.iter_slices(_SLICE):
        labelled.of(part).write_csv(stream, separator="\t", include_header=False)
    return {"facts": len(triples)}


def write_graphml(source: Exportable, _: WriterOptions, stream: IO[bytes]) -> dict[str, int]:
    """Write a GraphML document (see kgkit.views.to_networkx.write_graphml)."""
    from kgkit.views import to_networkx

    view = open_triples(source.views)
    to_networkx.write_graphml(view, _views(source)[0], stream)
    return {"concepts": view.num_concepts, "facts": len(view.triples)}


def write_pyg(source: Exportable, _: WriterOptions, folder: Path) -> dict[str, int]:
    """Write tensors of a torch-geometric HeteroData for kgkit.views.to_pyg.load_pyg."""
    from kgkit.views.to_pyg import save_pyg, to_pyg

    view, concepts = open_triples(source.views), _views(source)[0]
    save_pyg(to_pyg(view, concepts), concepts, view.relations, folder)
    return {"concepts": view.num_concepts, "facts": len(view.triples)}


def write_pykeen(source: Exportable, options: WriterOptions, folder: Path) -> dict[str, int]:
    """Write train.tsv, valid.tsv and test.tsv (no header), and entity_to_id.tsv, relation_to_id.tsv (label, id).

    The split leaks nothing (see kgkit.views.splits.split_triples). PyKEEN's TriplesFactory.from_path keeps our ids
    if it is given the two tables as `entity_to_id` and `relation_to_id`.
    """
    view = open_triples(source.views)
    split = split_triples(view, options.held_out, options.seed)
    concepts, relations = pl.Series("label", view.concepts), pl.Series("label", view.relations)
    labelled = _Labels(concepts.to_frame("concept"), relations, with_names=False)
    parts: dict[str, IntArray] = {"train": split.train, "valid": split.valid, "test": split.test}
    for name, rows in parts.items():
        with (folder / f"{name}.tsv").open("wb") as stream:
            frame = pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row")
            for part in frame.iter_slices(_SLICE):
                labelled.of(part).write_csv(stream, separator="\t", include_header=False)
    for name, labels in (("entity_to_id", concepts), ("relation_to_id", relations)):
        labels.to_frame().with_row_index("id").select("label", "id").write_csv(folder / f"{name}.tsv", separator="\t")
    return {"concepts": view.num_concepts} | {name: len(rows) for name, rows in parts.items()}


def write_neo4j(source: Exportable, _: WriterOptions, folder: Path) -> dict[str, int]:
    """Write nodes.csv and relationships.csv in the layout that `neo4j-admin database import` reads.

    Nodes have the labels Concept and their semantic group; lists have `;` between their values. What that layout
    cannot hold is changed: a `;` within a listed value becomes a comma, line ends within a text become spaces.
    """
    concepts, relations, triples = _views(source)
    names = read_view(source.views, "names", ["concept", "name"]).unique()
    names = names.join(concepts.select("concept", preferred="name"), on="concept", how="left")
    other = names.filter(pl.col("name").ne_missing(pl.col("preferred"))).group_by("concept")
    synonyms = other.agg(pl.col("name").sort())
    nodes = concepts.join(synonyms.rename({"name": "synonyms"}), on="concept", how="left", maintain_order="left")
    group = semantic_group_of(nodes["semantic_types"])
    nodes.select(
        pl.col("concept").alias("concept:ID"),
        _one_line(pl.col("name")).alias("name"),
        _one_line(pl.col("definition")).alias("definition"),
        *(_joined(column).alias(f"{column}:string[]") for column in ("synonyms", "semantic_types", "codes")),
        pl.Series(":LABEL", "Concept;" + group),
    ).write_csv(folder / "nodes.csv")
    labelled = _Labels(concepts, relations, with_names=False)
    with (folder / "relationships.csv").open("wb") as stream:
        stream.write(b":START_ID,:TYPE,:END_ID\n")
        for part in triples.iter_slices(_SLICE):
            labelled.of(part).write_csv(stream, include_header=False)
    return {"concepts": len(nodes), "facts": len(triples)}


class _Labels:
    """Writes ids of facts out as CURIEs."""

    def __init__(self, concepts: pl.DataFrame, relations: pl.Series, with_names: bool) -> None:
        self._concepts = concepts
        self._relations = relations
        self._with_names = with_names

    def of(self, triples: pl.DataFrame) -> pl.DataFrame:
        """Columns head, (head_name,) relation, tail (, tail_name) of a slice of the triples view."""
        columns: dict[str, pl.Series] = {}
        for place in ("head", "relation", "tail"):
            if place == "relation":
                columns[place] = self._relations.gather(triples[place])
                continue
            columns[place] = self._concepts["concept"].gather(triples[place])
            if self._with_names:
                columns[f"{place}_name"] = self._concepts["name"].gather(triples[place])
        return pl.DataFrame(columns)


def _views(source: Exportable) -> tuple[pl.DataFrame, pl.Series, pl.DataFrame]:
    """Concepts, relations, triples.

    Raises:
        InputError: if the views are missing.
    """
    views = source.views
    return read_view(views, "concepts"), read_view(views, "relations")["relation"], read_view(views, "triples")


def _one_line(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(_LINE_END, " ")


def _joined(column: str) -> pl.Expr:
    return pl.col(column).list.eval(_one_line(pl.element()).str.replace_all(";", ",", literal=True)).list.join(";")
