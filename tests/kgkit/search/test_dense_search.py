"""Search by vectors against brute force, its filters and its messages."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_thorax import CURIE, concept_rows, unit_rows, write_encoder

from kgkit.arrays import FloatArray
from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.errors import InputError, UnknownConceptError
from kgkit.search import dense
from kgkit.search.build import build_index
from kgkit.search.concept_search import ConceptSearch, open_search
from kgkit.search.dense import KINDS
from kgkit.search.filters import ConceptFilter
from kgkit.search.layout import map_arrays
from kgkit.search.vectors import OWN_SHARE
from kgkit.types import SearchHit

faiss.omp_set_num_threads(1)


def index_of(folder: Path, kind: str = "auto") -> ConceptSearch:
    build_index(folder, kind)
    return open_search(folder)


@pytest.fixture(scope="module")
def searchable(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> ConceptSearch:
    """The tiny encoder with an exact index."""
    return index_of(Path(shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("index") / "encoder")))


def brute_force(encoder: ConceptEncoder, query: FloatArray) -> list[tuple[str, float]]:
    """(concept, score) in falling order: the best of its own vector and its names', and a little of its own."""
    own = dict(zip(encoder.concepts, (encoder.vectors @ query).tolist(), strict=True))
    best = dict(own)
    by_name = (encoder.name_vectors @ query).tolist()
    for concept, row in encoder.names.select("concept", "vector").iter_rows():
        best[concept] = max(best[concept], by_name[row])
    scores = {concept: round((1 - OWN_SHARE) * best[concept] + OWN_SHARE * own[concept], 7) for concept in own}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def assert_best(hits: list[SearchHit], everything: list[tuple[str, float]], k: int) -> None:
    """The hits are the k best; what differs by less than a rounding may stand in either order."""
    scores = dict(everything)
    assert [hit.rank for hit in hits] == list(range(1, min(k, len(everything)) + 1))
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in everything[:k]], atol=3e-6)
    np.testing.assert_allclose([hit.score for hit in hits], [scores[hit.concept] for hit in hits], atol=3e-6)
    assert len({hit.concept for hit in hits}) == len(hits)


@pytest.fixture(scope="module")
def named_encoder(tmp_path_factory: pytest.TempPathFactory) -> ConceptEncoder:
    """300 concepts, 500 names of which some belong to two or three concepts."""
    generator = np.random.default_rng(1)
    names = [(f"test:{concept:06d}", row) for row in range(500)
             for concept in generator.choice(300, size=generator.integers(1, 4), replace=False)]  # fmt: skip
    folder = tmp_path_factory.mktemp("named") / "encoder"
    write_encoder(folder, unit_rows(300, 24, 2), names=names, name_vectors=unit_rows(500, 24, 3))
    return load_encoder(folder)


@pytest.fixture(scope="module")
def named(named_encoder: ConceptEncoder) -> ConceptSearch:
    return index_of(named_encoder.folder)


# Exact search


def test_small_encoders_get_an_exact_index(named_encoder: ConceptEncoder, named: ConceptSearch) -> None:
    about = json.loads((named.folder / "index" / "manifest.json").read_text(encoding="utf-8"))
    flat = {"kind": "flat", "num_vectors": 800, "recall_at_10": 1.0, "effort": 0}
    entries = 300 + len(named_encoder.names)
    assert about == {"format_version": 3, "encoder_digest": named_encoder.digest, "dim": 24, "num_concepts": 300,
                     "num_names": entries, "reads_text": False, "dense": flat}  # fmt: skip


def test_every_concept_finds_itself_first(named_encoder: ConceptEncoder, named: ConceptSearch) -> None:
    for hits, concept in zip(named.search_vectors(named_encoder.vectors, 1), named_encoder.concepts, strict=True):
        assert [hit.concept for hit in hits] == [concept]
        assert hits[0].score == hits[0].dense_score == pytest.approx(1, abs=1e-5)
        assert hits[0].lexical_score is None


def test_every_name_finds_its_concepts_first(named_encoder: ConceptEncoder, named: ConceptSearch) -> None:
    owners = named_encoder.names.group_by("vector").agg("concept").sort("vector")["concept"].to_list()
    found = named.search_vectors(named_encoder.name_vectors, 3)
    for row, (hits, concepts) in enumerate(zip(found, owners, strict=True)):
        first = hits[: len(concepts)]
        assert {hit.concept for hit in first} == set(concepts)
        assert {hit.matched_name for hit in first} == {f"other {row}"}


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 400))
def test_the_exact_index_equals_brute_force(
    named_encoder: ConceptEncoder, named: ConceptSearch, seed: int, k: int
) -> None:
    query = unit_rows(1, 24, seed)
    assert_best(named.search_vectors(query, k)[0], brute_force(named_encoder, query[0]), k)


def test_a_concept_of_many_names_leaves_room_for_others(tmp_path: Path) -> None:
    names = np.repeat(unit_rows(1, 16, 1), 60, axis=0) + 0.01 * unit_rows(60, 16, 2)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    listed = [("test:000003", row) for row in range(60)]
    index = index_of(write_encoder(tmp_path / "e", unit_rows(9, 16, 3), names=listed, name_vectors=names))
    hits = index.search_vectors(names[:1], 5)[0]
    assert [(hit.concept, hit.rank) for hit in hits] == [
        (concept, rank) for rank, (concept, _) in enumerate(brute_force(load_encoder(index.folder), names[0])[:5], 1)
    ]
    assert hits[0].concept == "test:000003"


def test_many_queries_are_answered_as_each_alone(named: ConceptSearch) -> None:
    queries = unit_rows(20, 24, 8)
    together = named.search_vectors(queries, 7)
    for query, hits in zip(queries, together, strict=True):
        alone = named.search_vectors(query[None], 7)[0]
        assert [hit.concept for hit in alone] == [hit.concept for hit in hits]


def test_k_beyond_the_concepts_gives_them_all(searchable: ConceptSearch) -> None:
    hits = searchable.search_vectors(unit_rows(1, 64, 1), 10_000)[0]
    assert sorted(hit.concept for hit in hits) == list(load_encoder(searchable.folder).concepts)


def test_equal_scores_stand_in_the_order_of_ids(tmp_path: Path) -> None:
    vectors = unit_rows(3, 16, 5)[[1, 0, 1, 1, 2, 1, 1, 1, 1, 1]]
    index = index_of(write_encoder(tmp_path / "encoder", vectors))
    same = [f"test:{row:06d}" for row in (0, 2, 3, 5, 6, 7, 8, 9)]
    for k in range(1, 11):
        hits = index.search_vectors(vectors[:1], k)[0]
        assert [hit.concept for hit in hits][:8] == same[:k], k


def test_an_encoder_may_be_tiny(tmp_path: Path) -> None:
    for kind in ("flat", "hnsw", "ivfsq8"):
        folder = write_encoder(tmp_path / kind, unit_rows(3, 16, 5))
        assert build_index(folder, kind).dense.recall_at_10 == 1.0
        assert len(open_search(folder).search_vectors(unit_rows(1, 16, 1), 10)[0]) == 3


# Neighbours, filters


def test_neighbours_leave_the_concept_itself_out(searchable: ConceptSearch) -> None:
    encoder = load_encoder(searchable.folder)
    vector = encoder.embed_concepts([CURIE["lung"]])[0]
    others = [pair for pair in brute_force(encoder, vector) if pair[0] != CURIE["lung"]]
    assert_best(searchable.neighbours(CURIE["lung"], 6), others, 6)
    bones = searchable.neighbours(CURIE["lung"], 50, keep=ConceptFilter(("T037",)))
    assert {hit.concept for hit in bones} == {CURIE[f"{bone}fracture"] for bone in ("", "rib ", "clavicle ")}
    with pytest.raises(UnknownConceptError, match="no concept 'umls:C0'"):
        searchable.neighbours("umls:C0", 3)


def test_a_code_names_the_concept_it_sits_on_alone(searchable: ConceptSearch) -> None:
    rib = searchable.concept(CURIE["rib"])
    code = load_encoder(searchable.folder).table.row(by_predicate=None, index=0, named=True)["codes"]
    own = {each for row in load_encoder(searchable.folder).table.iter_rows(named=True) if row["concept"] == rib.id
           for each in row["codes"]}  # fmt: skip
    assert code
    assert {searchable.concept(each) for each in own} == {rib}
    with pytest.raises(UnknownConceptError, match="'TST:77'"):  # both halves of the lung have it
        searchable.concept("TST:77")


@pytest.mark.parametrize("tui", ["T023", "T047", "T073"])
def test_the_semantic_type_filter_equals_brute_force_on_its_members(searchable: ConceptSearch, tui: str) -> None:
    encoder = load_encoder(searchable.folder)
    members = {CURIE[name] for name, its_type, _, _ in concept_rows() if its_type == tui}
    for seed in range(5):
        query = unit_rows(1, 64, seed)
        expected = [pair for pair in brute_force(encoder, query[0]) if pair[0] in members]
        for k in (1, 4, 100):
            assert_best(searchable.search_vectors(query, k, keep=ConceptFilter((tui,)))[0], expected, k)


@pytest.fixture(scope="module")
def selective(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 concepts in clusters with a name each; a tenth is T001, a hundredth T002, a thousandth T003."""
    generator = np.random.default_rng(5)
    centres = unit_rows(200, 32, 6)
    rows = [centres[generator.integers(0, 200, 10_000)] + 0.1 * generator.standard_normal((10_000, 32))
            for _ in range(2)]  # fmt: skip
    own, names = ((part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in rows)
    types = [["T003"] if row % 1000 == 7 else ["T002"] if row % 100 == 7 else ["T001"] if row % 10 == 7 else ["T047"]
             for row in range(10_000)]  # fmt: skip
    listed = [(f"test:{row:06d}", row) for row in range(10_000)]
    return write_encoder(tmp_path_factory.mktemp("selective") / "e", own, names=listed, name_vectors=names, types=types)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfsq8"])
def test_filters_lose_nothing_however_few_pass(selective: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 10%, 1% and 0.1% the answer is the exact one; at 90% the index itself passes over the others."""
    monkeypatch.setattr(dense, "EXACT_BELOW", 0)
    search, encoder = index_of(selective, kind), load_encoder(selective)
    queries = encoder.name_vectors[5::900]
    for tuis, exactly in ((("T003",), True), (("T002", "T003"), True), (("T001", "T002", "T003"), True),
                          (("T047",), kind == "flat")):  # fmt: skip
        members = encoder.table.filter(encoder.table["semantic_types"].list.get(0).is_in(tuis))["concept"].to_list()
        shared = 0
        for query, hits in zip(queries, search.search_vectors(queries, 10, keep=ConceptFilter(tuis)), strict=True):
            passed = set(members)
            right = [concept for concept, _ in brute_force(encoder, query) if concept in passed][:10]
            assert {hit.concept for hit in hits} <= passed
            assert len(hits) == 10
            shared += len({hit.concept for hit in hits} & set(right))
        assert shared == 120 if exactly else shared >= 105


# Approximate kinds


@pytest.fixture(scope="module")
def clusters() -> FloatArray:
    """4000 vectors around 80 centres, as concepts lie."""
    generator = np.random.default_rng(3)
    rows = unit_rows(80, 48, 4).repeat(50, axis=0) + 0.08 * generator.standard_normal((4000, 48))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "copies", "least"),
    [("ivfsq8", 1, 0.95), ("hnsw", 1, 0.95), pytest.param("ivfpq", 3, 0.8, marks=pytest.mark.slow)],
)
def test_approximate_kinds_report_the_recall_they_have(
    tmp_path: Path, clusters: FloatArray, kind: str, copies: int, least: float
) -> None:
    clusters = np.concatenate([np.roll(clusters, shift, axis=1) for shift in range(copies)])
    folder = write_encoder(tmp_path / "encoder", clusters)
    summary = build_index(folder, kind).dense
    assert (summary.kind, summary.num_vectors) == (kind, 4000 * copies)
    assert least <= summary.recall_at_10 <= 1
    assert summary.effort > 0
    search = open_search(folder)
    generator = np.random.default_rng(9)
    queries = clusters[generator.choice(len(clusters), 100)] + 0.3 / 48**0.5 * generator.standard_normal((100, 48))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    truth = np.argsort(-(queries @ clusters.T), axis=1)[:, :10]
    hits = search.search_vectors(queries, 10)
    found = [{int(hit.concept[-6:]) for hit in its} for its in hits]
    measured = np.mean([len(set(row.tolist()) & its) / 10 for row, its in zip(truth, found, strict=True)])
    # Search may look further than the index was measured to, never less far.
    assert measured >= summary.recall_at_10 - 0.05
    # Codes are coarse, scores are not: each is the exact cosine.
    for query, its in zip(queries, hits, strict=True):
        exact = clusters[[int(hit.concept[-6:]) for hit in its]] @ query
        np.testing.assert_allclose([hit.score for hit in its], exact, atol=1e-5)


def test_recall_is_measured_before_the_questions_join_the_index(
    selective: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = dense.exact_nearest

    def spy(queries, num_rows, rows, k):  # type: ignore[no-untyped-def]
        everything = rows(slice(0, num_rows))
        seen.append(np.abs(queries @ everything.T).max())
        return real(queries, num_rows, rows, k)

    monkeypatch.setattr(dense, "exact_nearest", spy)
    assert build_index(selective, "ivfsq8").dense.num_vectors == 20_000
    assert seen[0] < 0.9999  # none of them is its own answer


def test_the_exact_scan_equals_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_BLOCK_ROWS", 7)
    queries, rows = unit_rows(5, 8, 1), unit_rows(60, 8, 2)
    found = dense.exact_nearest(queries, 60, lambda part: rows[part], 9)
    assert found.tolist() == np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :9].tolist()


def test_the_reported_effort_is_used(selective: Path) -> None:
    summary = build_index(selective, "ivfsq8").dense
    path = selective / "index" / "vectors.faiss"
    raw = faiss.read_index(str(path))
    raw.nprobe = 1
    faiss.write_index(raw, str(path))
    assert open_search(selective)._dense._index.nprobe == summary.effort > 1


def test_all_concepts_come_back_from_an_approximate_index_too(selective: Path) -> None:
    search = index_of(selective, "ivfsq8")
    for k in (7_000, 10_000, 30_000):
        hits = search.search_vectors(unit_rows(1, 32, 3), k)[0]
        assert len({hit.concept for hit in hits}) == len(hits) == min(k, 10_000)


def test_graphics_cards_are_used_when_faiss_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a machine without one can tell: what decides, and which copy is taken."""
    index = faiss.IndexFlatIP(4)
    assert dense.gpu_copy(index, "flat") is None
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: ("on the card", index), raising=False)
    assert dense.gpu_copy(index, "flat") == ("on the card", index)
    assert dense.gpu_copy(index, "hnsw") is None


def test_product_quantisation_says_what_it_needs(tmp_path: Path) -> None:
    for name, vectors in (("few", unit_rows(100, 48, 1)), ("odd", unit_rows(9984, 50, 1))):
        folder = write_encoder(tmp_path / name, vectors)
        has = f"{len(vectors)} of length {vectors.shape[1]}"
        with pytest.raises(InputError, match=rf"'ivfpq' needs 9984 or more.*divisible by 48.*{has}"):
            build_index(folder, "ivfpq")
        assert not (folder / "index").exists()


# Messages


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(searchable: ConceptSearch, k: int) -> None:
    for ask in (
        lambda: searchable.search_vectors(unit_rows(1, 64, 1), k),
        lambda: searchable.search(["lung"], k),
        lambda: searchable.neighbours(CURIE["lung"], k),
    ):
        with pytest.raises(InputError, match=f"k is {k}, expected 1 or more"):
            ask()


def test_vectors_of_another_length_are_refused(searchable: ConceptSearch) -> None:
    with pytest.raises(InputError, match=r"vectors of shape \[2, 24\], expected \[any, 64\]"):
        searchable.search_vectors(unit_rows(2, 24, 1))


def test_no_index_tells_the_command(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(5, 16, 1))
    with pytest.raises(InputError, match=f"no index yet; run: kgkit index {folder}"):
        open_search(folder)


def test_unknown_kinds_and_folders_are_refused(tmp_path: Path, tiny_kg: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(5, 16, 1))
    with pytest.raises(InputError, match=r"unknown index kind 'flaat'; did you mean 'flat'\?.*hnsw"):
        build_index(folder, "flaat")
    with pytest.raises(InputError, match="this is a knowledge graph, expected a concept encoder"):
        build_index(tiny_kg)
    assert set(KINDS) == {"flat", "hnsw", "ivfsq8", "ivfpq"}


def test_an_index_of_another_encoder_or_version_is_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(50, 16, 1))
    build_index(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"encoder_digest": "1" * 64}), encoding="utf-8")
    with pytest.raises(InputError, match="built from another encoder; run: kgkit index"):
        open_search(folder)
    build_index(folder)
    assert len(open_search(folder).search_vectors(unit_rows(1, 16, 1), 3)[0]) == 3
    about = json.loads((folder / "index" / "manifest.json").read_text(encoding="utf-8"))
    (folder / "index" / "manifest.json").write_text(json.dumps(about | {"format_version": 1}), encoding="utf-8")
    with pytest.raises(InputError, match="of another version of kgkit; run: kgkit index"):
        open_search(folder)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("vectors.faiss", b"IxFI"), ("vectors.faiss", b""), ("vectors.faiss", None), ("arrays.safetensors", b""),
     ("arrays.safetensors", b"\x08\0\0\0\0\0\0\0{\"a\": 1}"), ("arrays.safetensors", b"\xff" * 9),
     ("arrays.safetensors", b"\x02\0\0\0\0\0\0\0{}"), ("arrays.safetensors", None), ("catalogue.sqlite", b""),
     ("catalogue.sqlite", b"SQLite format 3\0" + b"\0" * 99), ("catalogue.sqlite", None), ("manifest.json", b"{"),
     ("manifest.json", b"[]"), ("manifest.json", b"\xff")],
)  # fmt: skip
def test_damaged_indexes_are_refused(tmp_path: Path, name: str, damage: bytes | None) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(50, 16, 1))
    build_index(folder)
    path = folder / "index" / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(InputError, match=r"damaged index .*run: kgkit index") as caught:
        open_search(folder).search_vectors(unit_rows(1, 16, 1), 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("array", ["name.rows", "concept.rows", "entry.strings", "entry.sources", "row.sources"])
def test_rows_that_do_not_exist_are_damage(tmp_path: Path, array: str) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(50, 16, 1))
    build_index(folder)
    path = folder / "index" / "arrays.safetensors"
    arrays = dict(map_arrays(path))
    content = {name: np.full_like(values, 1 << 30) if name == array else np.array(values)
               for name, values in arrays.items()}  # fmt: skip
    save_file(content, path)
    search = open_search(folder)
    if array in ("name.rows", "concept.rows", "entry.strings"):
        ask = partial(search.search, [load_encoder(folder).table["name"][0]])  # by letters, for want of a text tower
    else:
        ask = partial(search.search_vectors, unit_rows(1, 16, 1))
    with pytest.raises(InputError, match=rf"damaged index \(its parts disagree\); run: kgkit index {folder}$"):
        ask()


def test_damage_of_the_encoder_itself_is_not_laid_on_the_index(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(50, 16, 1))
    build_index(folder)
    path = folder / "vectors.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(InputError, match=r"vectors.safetensors: damaged or missing .*a part of the encoder itself$"):
        open_search(folder).search_vectors(unit_rows(1, 16, 1), 3)


@pytest.mark.parametrize("lost", ["dense", "num_concepts", "reads_text"])
def test_a_manifest_that_lacks_something_is_refused(tmp_path: Path, lost: str) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(50, 16, 1))
    build_index(folder)
    path = folder / "index" / "manifest.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    for changed in ({**about, lost: "?"}, {name: value for name, value in about.items() if name != lost}):
        if lost == "reads_text" and lost in changed:
            continue
        path.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(InputError, match=r"damaged index .*run: kgkit index"):
            open_search(folder)


@pytest.mark.parametrize("name", ["vectors.faiss", "arrays.safetensors", "catalogue.sqlite"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_indexes_that_were_cut_off_are_refused(tmp_path: Path, name: str, share: float) -> None:
    folder = write_encoder(tmp_path / "encoder", unit_rows(500, 16, 1))
    build_index(folder)
    path = folder / "index" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"damaged index .*run: kgkit index"):
        open_search(folder).search_vectors(unit_rows(1, 16, 1), 500)


def test_the_same_encoder_gives_the_same_index(tmp_path: Path, selective: Path) -> None:
    for name in ("one", "other"):
        build_index(selective, "ivfsq8", out=tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name
