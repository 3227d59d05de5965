"""HPO, Mondo, NCIT, Uberon and MeSH, with Mondo's mappings, as one graph."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.obo import read_obo
from kgkit.sources.obograph import read_obograph
from kgkit.sources.sssom import read_sssom
from kgkit.sources.term_tables import read_terms
from kgkit.views.build import build_views
from kgkit.views.triples import open_triples

ONTOLOGIES = Path(os.environ.get("KGKIT_DATA", "none")) / "ontologies"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not ONTOLOGIES.is_dir(), reason="KGKIT_DATA names no folder with ontologies/"),
]


@pytest.fixture(scope="module")
def sources() -> list[SourceTables]:
    mappings = [read_sssom(ONTOLOGIES / "mondo" / f"mondo_exactmatch_{name}.sssom.tsv.gz", IngestLog())
                for name in ("umls", "ncit", "mesh")]  # fmt: skip
    return [
        read_obo(ONTOLOGIES / "hpo" / "hp.obo.gz", IngestLog()),
        read_obo(ONTOLOGIES / "uberon" / "uberon_import.obo.gz", IngestLog()),
        read_obograph(ONTOLOGIES / "mondo" / "mondo_terms.json.gz", IngestLog()),
        read_obograph(ONTOLOGIES / "ncit" / "ncit_disease_obograph.json.gz", IngestLog()),
        read_terms(ONTOLOGIES / "mesh" / "mesh_descriptors.tsv.gz", IngestLog()),
        *mappings,
    ]


@pytest.fixture(scope="module")
def views(sources: list[SourceTables], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open") / "views"
    build_views(sources, folder)
    return folder


def test_nine_in_ten_terms_hang_together(views: Path) -> None:
    view = open_triples(views)
    ends = (view.triples[:, 0], view.triples[:, 2])
    adjacency = coo_array((np.ones(len(view.triples), np.bool_), ends), shape=(view.num_concepts,) * 2)
    _, component = connected_components(adjacency, directed=False)
    largest = np.bincount(component).argmax()
    members = pl.read_parquet(views / "concepts.parquet", columns=["members"])["members"]
    terms = pl.DataFrame({"members": members, "inside": component == largest}).explode("members")
    for prefix, expected in (("HP:", 19_034), ("MONDO:", 27_990), ("NCIT:", 18_000)):
        own = terms.filter(pl.col("members").str.starts_with(prefix))
        assert len(own) >= expected
        assert own["inside"].mean() >= 0.9, prefix


def test_no_class_of_ids_holds_two_cuis(views: Path) -> None:
    members = pl.read_parquet(views / "concepts.parquet", columns=["members"])
    cuis = members.select(pl.col("members").list.eval(pl.element().str.starts_with("umls:")).list.sum())["members"]
    assert cuis.max() == 1
    assert members["members"].list.len().max() > 2


def test_the_order_of_the_sources_changes_nothing(sources: list[SourceTables], views: Path, tmp_path: Path) -> None:
    build_views(random.Random(1).sample(sources, len(sources)), tmp_path / "views")
    for path in views.glob("*.parquet"):
        assert pl.read_parquet(path).equals(pl.read_parquet(tmp_path / "views" / path.name)), path.name
