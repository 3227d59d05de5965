"""Concept search against brute force, its filters and its messages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_thorax import CURIE, concept_rows, unit_rows, write_encoder

from kgkit.encoder.artifact import ConceptEncoder, FloatArray, load_encoder
from kgkit.errors import InputError, UnknownConceptError
from kgkit.index import KINDS, ConceptIndex, build_index, open_index

faiss.omp_set_num_threads(1)


def index_of(folder: Path, kind: str = "auto") -> ConceptIndex:
    build_index(folder, kind)
    return open_index(folder)


@pytest.fixture(scope="module")
def searchable(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> ConceptIndex:
    """The tiny encoder with an exact index."""
    return index_of(Path(shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("index") / "encoder")))


def brute_force(encoder: ConceptEncoder, query: FloatArray) -> list[tuple[str, float]]:
    """(concept, score) in falling order; a concept scores as the best of its own vector and its names'."""
    best = dict(zip(encoder.concepts, (encoder.vectors @ query).tolist(), strict=True))
    by_name = (encoder.name_vectors @ query).tolist()
    for concept, row in encoder.names.select("concept", "vector").iter_rows():
        best[concept] = max(best[concept], by_name[row])
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> ConceptIndex:
    """300 concepts, 500 names of which some belong to two or three concepts."""
    generator = np.random.default_rng(1)
    names = [(f"test:{concept:06d}", row) for row in range(500)
             for concept in generator.choice(300, size=generator.integers(1, 4), replace=False)]  # fmt: skip
    folder = tmp_path_factory.mktemp("named") / "encoder"
    write_encoder(folder, unit_rows(300, 24, 2), names=names, name_vectors=unit_rows(500, 24, 3))
    return index_of(folder)


# Exact search


def test_small_encoders_get_an_exact_index(named: ConceptIndex) -> None:
    about = json.loads((named.encoder.folder / "index" / "manifest.json").read_text(encoding="utf-8"))
    assert about == {"kind": "flat", "num_concepts": 300, "num_vectors": 800, "recall_at_10": 1.0, "nprobe": 0,
                     "encoder_digest": named.encoder.digest}  # fmt: skip


def test_every_concept_finds_itself_first(named: ConceptIndex) -> None:
    for hits, concept in zip(named.search(named.encoder.vectors, 1), named.encoder.concepts, strict=True):
        assert [hit.concept for hit in hits] == [concept]
        assert hits[0].score == pytest.approx(1, abs=1e-5)


def test_every_name_finds_its_concepts_first(named: ConceptIndex) -> None:
    owners = named.encoder.names.group_by("vector").agg("concept").sort("vector")["concept"].to_list()
    found = named.search(named.encoder.name_vectors, 3)
    for hits, concepts in zip(found, owners, strict=True):
        assert [hit.concept for hit in hits[: len(concepts)]] == sorted(concepts)


@given(st.integers(0, 10_000), st.integers(1, 400))
def test_the_exact_index_equals_brute_force(named: ConceptIndex, seed: int, k: int) -> None:
    query = unit_rows(1, 24, seed)
    hits = named.search(query, k)[0]
    expected = brute_force(named.encoder, query[0])[:k]
    assert [hit.concept for hit in hits] == [concept for concept, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-5)
    assert [hit.rank for hit in hits] == list(range(1, min(k, 300) + 1))


def test_a_concept_of_many_names_leaves_room_for_others(tmp_path: Path) -> None:
    names = np.repeat(unit_rows(1, 16, 1), 60, axis=0) + 0.01 * unit_rows(60, 16, 2)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    listed = [("test:000003", row) for row in range(60)]
    index = index_of(write_encoder(tmp_path / "e", unit_rows(9, 16, 3), names=listed, name_vectors=names))
    hits = index.search(names[:1], 5)[0]
    assert [(hit.concept, hit.rank) for hit in hits] == [
        (concept, rank) for rank, (concept, _) in enumerate(brute_force(index.encoder, names[0])[:5], 1)
    ]
    assert hits[0].concept == "test:000003"


def test_many_queries_are_answered_as_each_alone(named: ConceptIndex) -> None:
    queries = unit_rows(20, 24, 8)
    together = named.search(queries, 7)
    for query, hits in zip(queries, together, strict=True):
        alone = named.search(query[None], 7)[0]
        assert [hit.concept for hit in alone] == [hit.concept for hit in hits]


def test_k_beyond_the_concepts_gives_them_all(searchable: ConceptIndex) -> None:
    hits = searchable.search(searchable.encoder.vectors[:1], 10_000)[0]
    assert sorted(hit.concept for hit in hits) == list(searchable.encoder.concepts)


def test_equal_scores_stand_in_the_order_of_ids(tmp_path: Path) -> None:
    vectors = unit_rows(3, 16, 5)[[1, 0, 1, 1, 2, 1, 1, 1, 1, 1]]
    index = index_of(write_encoder(tmp_path / "encoder", vectors))
    same = [f"test:{row:06d}" for row in (0, 2, 3, 5, 6, 7, 8, 9)]
    for k in range(1, 11):
        hits = index.search(vectors[:1], k)[0]
        assert [hit.concept for hit in hits][:8] == same[:k], k


def test_an_encoder_may_be_tiny(tmp_path: Path) -> None:
    for kind in ("flat", "hnsw", "ivfsq8"):
        folder = write_encoder(tmp_path / kind, unit_rows(3, 16, 5))
        assert build_index(folder, kind).recall_at_10 == 1.0
        assert len(open_index(folder).search(unit_rows(1, 16, 1), 10)[0]) == 3


# Text, neighbours, filters


def test_text_finds_names_and_hits_carry_the_concepts_facts(searchable: ConceptIndex) -> None:
    encoder = searchable.encoder
    texts = ["fluid around the heart", "PTX"]
    for hits, name in zip(searchable.search_text(texts, 5), ["pericardial effusion", "pneumothorax"], strict=True):
        assert hits[0].concept == CURIE[name]
        assert hits[0].score > 0.999
        assert all((hit.name, hit.semantic_types) == (encoder.name(hit.concept), encoder.semantic_types(hit.concept))
                   for hit in hits)  # fmt: skip
    pair = {hit.concept for hit in searchable.search_text(["effusion"], 2)[0]}
    assert pair == {CURIE["pleural effusion"], CURIE["pericardial effusion"]}


def test_neighbours_leave_the_concept_itself_out(searchable: ConceptIndex) -> None:
    encoder = searchable.encoder
    hits = searchable.neighbours(CURIE["lung"], 6)
    vector = encoder.embed_concepts([CURIE["lung"]])[0]
    others = [concept for concept, _ in brute_force(encoder, vector) if concept != CURIE["lung"]]
    assert [hit.concept for hit in hits] == others[:6]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
    bones = searchable.neighbours(CURIE["lung"], 50, "T037")
    assert {hit.concept for hit in bones} == {CURIE[f"{bone}fracture"] for bone in ("", "rib ", "clavicle ")}
    with pytest.raises(UnknownConceptError, match="no concept 'umls:C0'"):
        searchable.neighbours("umls:C0", 3)


@pytest.mark.parametrize("tui", ["T023", "T047", "T073"])
def test_the_semantic_type_filter_equals_brute_force_on_its_members(searchable: ConceptIndex, tui: str) -> None:
    encoder = searchable.encoder
    members = {CURIE[name] for name, its_type, _, _ in concept_rows() if its_type == tui}
    for seed in range(5):
        query = unit_rows(1, 64, seed)
        expected = [pair for pair in brute_force(encoder, query[0]) if pair[0] in members]
        for k in (1, 4, 100):
            hits = searchable.search(query, k, tui)[0]
            assert [hit.concept for hit in hits] == [concept for concept, _ in expected][:k]
            np.testing.assert_allclose([hit.score for hit in hits], [s for _, s in expected][:k], atol=1e-5)


# Approximate kinds


@pytest.fixture(scope="module")
def clusters() -> FloatArray:
    """4000 vectors around 80 centres, as concepts lie."""
    generator = np.random.default_rng(3)
    rows = unit_rows(80, 48, 4).repeat(50, axis=0) + 0.08 * generator.standard_normal((4000, 48))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "copies", "least"),
    [("ivfsq8", 1, 0.95), ("hnsw", 1, 0.9), pytest.param("ivfpq", 3, 0.3, marks=pytest.mark.slow)],
)
def test_approximate_kinds_report_the_recall_they_have(
    tmp_path: Path, clusters: FloatArray, kind: str, copies: int, least: float
) -> None:
    clusters = np.concatenate([np.roll(clusters, shift, axis=1) for shift in range(copies)])
    folder = write_encoder(tmp_path / "encoder", clusters)
    summary = build_index(folder, kind)
    assert (summary.kind, summary.num_vectors, summary.num_concepts) == (kind, 4000 * copies, 4000 * copies)
    assert least <= summary.recall_at_10 <= 1
    assert (summary.nprobe > 0) == kind.startswith("ivf")
    index = open_index(folder)
    generator = np.random.default_rng(9)
    queries = clusters[generator.choice(len(clusters), 100)] + 0.3 / 48**0.5 * generator.standard_normal((100, 48))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    truth = np.argsort(-(queries @ clusters.T), axis=1)[:, :10]
    found = [{int(hit.concept[-6:]) for hit in hits} for hits in index.search(queries, 10)]
    measured = np.mean([len(set(row.tolist()) & hits) / 10 for row, hits in zip(truth, found, strict=True)])
    # Search may look further than the index was measured to, never less far.
    assert measured >= summary.recall_at_10 - 0.05


def test_the_reported_nprobe_is_used(tmp_path: Path, clusters: FloatArray) -> None:
    folder = write_encoder(tmp_path / "encoder", clusters)
    summary = build_index(folder, "ivfsq8")
    path = folder / "index" / "concepts.faiss"
    raw = faiss.read_index(str(path))
    raw.nprobe = 1
    faiss.write_index(raw, str(path))
    assert open_index(folder)._index.nprobe == summary.nprobe > 1


def test_product_quantisation_says_what_it_needs(tmp_path: Path) -> None:
    for name, vectors in (("few", unit_rows(100, 48, 1)), ("odd", unit_rows(9984, 50, 1))):
        folder = write_encoder(tmp_path / name, vectors)
        has = f"{len(vectors)} of length {vectors.shape[1]}"
        with pytest.raises(InputError, match=rf"'ivfpq' needs 9984 or more.*divisible by 48.*{has}"):
            build_index(folder, "ivfpq")
        assert not (folder / "index").exists()


# Messages


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(searchable: ConceptIndex, k: int) -> None:
    for ask in (
        lambda: searchable.search(searchable.encoder.vectors[:1], k),
        lambda: searchable.search_text(["lung"], k),
        lambda: searchable.neighbours(CURIE["lung"], k),
    ):
        with pytest.raises(InputError, match=f"k is {k}, expected 1 or more"):
            ask()


def test_unknown_semantic_types_are_refused_with_those_near(searchable: ConceptIndex) -> None:
    with pytest.raises(InputError, match=r"no concept has the semantic type 'T048'; did you mean 'T04\d'"):
        searchable.search_text(["lung"], 3, "T048")


def test_empty_queries_are_numbered(searchable: ConceptIndex) -> None:
    with pytest.raises(InputError, match="query 2 of 3 is empty"):
        searchable.search_text(["lung", " ", "rib"], 3)


def test_no_index_tells_the_command(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(5, 16, 1))
    with pytest.raises(InputError, match=f"no index yet; run: kgkit index {folder}"):
        open_index(folder)


def test_unknown_kinds_and_folders_are_refused(tmp_path: Path, tiny_kg: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(5, 16, 1))
    with pytest.raises(InputError, match=r"unknown index kind 'flaat'; did you mean 'flat'\?.*hnsw"):
        build_index(folder, "flaat")
    with pytest.raises(InputError, match="this is a knowledge graph, expected a concept encoder"):
        build_index(tiny_kg)
    assert set(KINDS) == {"flat", "hnsw", "ivfsq8", "ivfpq"}


def test_an_index_of_another_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(50, 16, 1))
    build_index(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"encoder_digest": "1" * 64}), encoding="utf-8")
    with pytest.raises(InputError, match="built from another encoder; run: kgkit index"):
        open_index(folder)
    build_index(folder)
    assert load_encoder(folder).digest == "1" * 64
    assert len(open_index(folder).search(unit_rows(1, 16, 1), 3)[0]) == 3


@pytest.mark.parametrize(
    ("name", "damage"),
    [("concepts.faiss", b"IxFI"), ("concepts.faiss", b""), ("manifest.json", b"{"), ("manifest.json", b"{}"),
     ("manifest.json", b"[]"), ("manifest.json", b'{"encoder_digest": "0", "nprobe": null}')],
)  # fmt: skip
def test_damaged_indexes_are_refused(tmp_path: Path, name: str, damage: bytes) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(50, 16, 1))
    build_index(folder)
    (folder / "index" / name).write_bytes(damage)
    with pytest.raises(InputError, match=r"damaged index .*run: kgkit index") as caught:
        open_index(folder)
    assert "\n" not in str(caught.value)
