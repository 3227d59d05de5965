"""Exported vectors read back as the vectors they are, format by format; licences; what may be overwritten."""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rrf import Rrf
from tiny_thorax import make_graph, unit_rows, write_encoder

from kgkit.encoder.artifact import ConceptEncoder
from kgkit.encoder.export_embeddings import FORMATS, EmbeddingExport, export_embeddings
from kgkit.errors import InputError
from kgkit.graph.store import KnowledgeGraph

Command = Callable[..., tuple[int, str, str]]
ENDING = {"parquet": "x.parquet", "npy": "x.npy", "word2vec": "x.txt", "projector": "x"}


def read_tsv(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]


def read_word2vec(path: Path) -> dict[str, np.ndarray]:
    """As gensim's load_word2vec_format reads the text form."""
    with path.open("rb") as stream:
        count, dim = (int(number) for number in stream.readline().decode().split())
        found = {}
        for line in stream:
            key, *numbers = line.decode().rstrip().split(" ")
            assert len(numbers) == dim
            assert key not in found
            found[key] = np.array(numbers, dtype=np.float32)
    assert len(found) == count
    return found


def read_back(kind: str, out: Path) -> tuple[list[str], np.ndarray]:
    """Concepts and vectors of an export, in its order."""
    if kind == "parquet":
        table = pl.read_parquet(out)
        return table["concept"].to_list(), table["vector"].to_numpy()
    if kind == "npy":
        header, *rows = read_tsv(out.with_suffix(".tsv"))
        assert header == ["concept", "name"]
        return [row[0] for row in rows], np.load(out, allow_pickle=False)
    if kind == "word2vec":
        found = read_word2vec(out)
        return list(found), np.stack(list(found.values()))
    header, *rows = read_tsv(out / "metadata.tsv")
    assert header == ["concept", "name", "semantic_group", "semantic_types"]
    return [row[0] for row in rows], np.array(read_tsv(out / "vectors.tsv"), dtype=np.float32)


# Round trips


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_vectors_back(opened: ConceptEncoder, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "new" / ENDING[kind]
    done = export_embeddings(opened.folder, EmbeddingExport(kind, out))
    concepts, vectors = read_back(kind, out)
    assert concepts == list(opened.concepts)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, opened.vectors)
    assert (done.num_vectors, done.dim, done.licence_level) == (len(concepts), opened.dim, 0)
    assert sorted(done.files) == sorted(path for path in (tmp_path / "new").rglob("*") if path.is_file())


@given(
    numbers=st.lists(
        st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3).filter(lambda row: np.linalg.norm(row) > 1e-3),
        min_size=1, max_size=5,
    ),
    kind=st.sampled_from(sorted(FORMATS)),
)  # fmt: skip
def test_any_numbers_survive_every_format(numbers: list[list[float]], kind: str) -> None:
    rows = np.array(numbers, dtype=np.float32)
    vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as place:
        folder = write_encoder(Path(place) / "e", vectors)
        out = Path(place) / ENDING[kind]
        export_embeddings(folder, EmbeddingExport(kind, out))
        np.testing.assert_array_equal(read_back(kind, out)[1], vectors)


def test_blocks_do_not_change_what_is_written(tmp_path: Path) -> None:
    vectors = unit_rows(20_000, 2, 0)  # three blocks
    types = [["T047"] if row % 5 == 3 or row == 19_999 else ["T023"] for row in range(len(vectors))]
    folder = write_encoder(tmp_path / "e", vectors, types=types)
    for kind in FORMATS:
        out = tmp_path / ENDING[kind]
        export_embeddings(folder, EmbeddingExport(kind, out, semantic_type="T047"))
        concepts, found = read_back(kind, out)
        rows = [row for row in range(len(vectors)) if types[row] == ["T047"]]
        assert concepts == [f"test:{row:06d}" for row in rows]
        np.testing.assert_array_equal(found, vectors[rows])


def test_names_have_the_vectors_of_their_texts(opened: ConceptEncoder, tmp_path: Path) -> None:
    out = tmp_path / "names.parquet"
    done = export_embeddings(opened.folder, EmbeddingExport("parquet", out, "names"))
    table = pl.read_parquet(out)
    assert done.num_vectors == len(table) == len(opened.names)
    expected = opened.names.select("concept", "name", "vector").rows()
    want = {(concept, name): opened.name_vectors[row] for concept, name, row in expected}
    for concept, name, vector in table.rows():
        np.testing.assert_array_equal(np.array(vector, dtype=np.float32), want.pop((concept, name)))
    assert not want


def test_word2vec_names_have_no_spaces_and_stand_once(opened: ConceptEncoder, tmp_path: Path) -> None:
    export_embeddings(opened.folder, EmbeddingExport("word2vec", tmp_path / "x.vec", "names"))
    found = read_word2vec(tmp_path / "x.vec")
    assert set(found) == {"_".join(name.split()) for name in opened.names["name"]}
    row = opened.names.filter(pl.col("name") == "collar bone")["vector"][0]
    np.testing.assert_array_equal(found["collar_bone"], opened.name_vectors[row])


def test_names_with_tabs_and_line_ends_stay_on_their_line(tmp_path: Path) -> None:
    titles = ["a\tb\nc", 'say "ah"', "x\u2028y,z", "naïve 日本"]
    folder = write_encoder(tmp_path / "e", unit_rows(4, 3, 0), titles=titles)
    for kind, table in (("npy", "x.tsv"), ("projector", "x/metadata.tsv")):
        export_embeddings(folder, EmbeddingExport(kind, tmp_path / ENDING[kind]))
        shown = [row[1] for row in read_tsv(tmp_path / table)[1:]]
        assert shown == ["a b c", 'say "ah"', "x y,z", "naïve 日本"]
    export_embeddings(folder, EmbeddingExport("parquet", tmp_path / "x.parquet"))
    assert pl.read_parquet(tmp_path / "x.parquet")["name"].to_list() == titles


def test_the_projector_reads_its_own_configuration(opened: ConceptEncoder, tmp_path: Path) -> None:
    out = tmp_path / "x"
    export_embeddings(opened.folder, EmbeddingExport("projector", out))
    text = (out / "projector_config.pbtxt").read_text(encoding="utf-8")
    assert text.split() == [
        "embeddings", "{", "tensor_path:", '"vectors.tsv"', "metadata_path:", '"metadata.tsv"', "}"
    ]  # fmt: skip
    groups = {row[2] for row in read_tsv(out / "metadata.tsv")[1:]}
    assert {"DISO", "ANAT"} <= groups


def test_parquet_says_where_it_comes_from(opened: ConceptEncoder, tmp_path: Path) -> None:
    export_embeddings(opened.folder, EmbeddingExport("parquet", tmp_path / "x.parquet"))
    about = pl.read_parquet_metadata(tmp_path / "x.parquet")
    assert (about["encoder_digest"], about["licence_level"]) == (opened.digest, "0")


def test_a_type_and_a_group_choose_together(tmp_path: Path) -> None:
    types = [["T047"], ["T023"], ["T047", "T033"], ["T033"], []]
    folder = write_encoder(tmp_path / "e", unit_rows(5, 3, 0), types=types)

    def rows(semantic_type: str | None = None, semantic_group: str | None = None) -> list[int]:
        options = EmbeddingExport("npy", tmp_path / "x.npy", semantic_type=semantic_type, semantic_group=semantic_group)
        export_embeddings(folder, options)
        return [int(concept[-6:]) for concept in read_back("npy", tmp_path / "x.npy")[0]]

    assert rows() == [0, 1, 2, 3, 4]
    assert rows("T047") == [0, 2]
    assert rows(None, "DISO") == [0, 2, 3]
    assert rows("T023", "ANAT") == [1]
    with pytest.raises(InputError, match=r"semantic group 'DISO'; choices: ANAT"):
        rows("T023", "DISO")
    with pytest.raises(InputError, match="no concept has the semantic type 'T999'"):
        rows("T999")
    with pytest.raises(InputError, match=r"group 'DISOO'; did you mean 'DISO'\?"):
        rows(None, "DISOO")


# Licences


@given(level=st.integers(0, 9), limit=st.integers(0, 9))
def test_an_encoder_above_the_level_is_refused(level: int, limit: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = write_encoder(Path(place) / "e", unit_rows(3, 4, 0), licence_level=level)
        options = EmbeddingExport("npy", Path(place) / "x.npy", max_licence_level=limit)
        if level <= limit:
            assert export_embeddings(folder, options).licence_level == level
        else:
            with pytest.raises(InputError, match=f"sources of licence level {level}, above {limit}") as caught:
                export_embeddings(folder, options)
            assert "\n" not in str(caught.value)
            assert not options.out.exists()


def test_an_unknown_level_is_no_level(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "e", unit_rows(3, 4, 0))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["licence_level"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match="does not say on what licence level"):
        export_embeddings(folder, EmbeddingExport("npy", tmp_path / "x.npy", max_licence_level=9))
    assert export_embeddings(folder, EmbeddingExport("npy", tmp_path / "x.npy")).licence_level is None


def test_the_way_out_of_a_refusal_leads_out(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that the refusal names, as they stand, on a graph of two vocabularies of which one is licensed."""
    rrf = Rrf()
    for name, level in (("OPEN", "0"), ("SHUT", "3")):
        rrf.row("MRSAB", {"RSAB": name, "SVER": "1", "VSAB": f"{name}1", "SON": name, "CURVER": "Y", "SRL": level})
    for number in range(1, 9):
        rrf.atom(f"C900000{number}", f"open name {number}", "OPEN", values={"SRL": "0"})
        rrf.atom(f"C900000{number}", f"secret name {number}", "SHUT", values={"SRL": "3"})
        rrf.semantic_type(f"C900000{number}", "T047")
        if number > 1:
            rrf.relation("C9000001", "RO", f"C900000{number}", "isa", {"SAB": "OPEN"})
    graph = KnowledgeGraph(make_graph(tmp_path, rrf))
    assert graph.licence_level == 3
    folder = write_encoder(tmp_path / "e", unit_rows(3, 4, 0), licence_level=graph.licence_level)
    code, _, err = command(
        "kgkit", "export-embeddings", folder, "--format", "npy", "--out", tmp_path / "x.npy", "--max-licence-level", 1
    )
    assert code == 1
    assert err.count("\n") == 1
    assert not (tmp_path / "x.npy").exists()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kg").rename(tmp_path / "KG")
    export, ingest, train = err.strip().split("graph KG below: ")[1].split(" && ")
    for line in (export, ingest):
        assert command(*shlex.split(line))[0] == 0
    assert KnowledgeGraph(tmp_path / "LEFT").licence_level == 0
    names = pl.read_parquet(KnowledgeGraph(tmp_path / "LEFT").views / "names.parquet")["name"].to_list()
    assert sorted(names) == [f"open name {number}" for number in range(1, 9)]
    assert train == "kgkit train-encoder LEFT --out ENCODER"


# What is refused, and what is not touched


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "e", unit_rows(5, 4, 0))


def test_unknown_words_are_refused_with_the_known(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown format 'parket'; did you mean 'parquet'\? choices: npy, par"):
        export_embeddings(small, EmbeddingExport("parket", tmp_path / "x"))
    with pytest.raises(InputError, match=r"cannot export 'name'; did you mean 'names'\?"):
        export_embeddings(small, EmbeddingExport("npy", tmp_path / "x", "name"))
    with pytest.raises(InputError, match="no vectors of names; export its concepts"):
        export_embeddings(small, EmbeddingExport("npy", tmp_path / "x", "names"))
    with pytest.raises(InputError, match="no such folder; expected a concept encoder"):
        export_embeddings(tmp_path / "nowhere", EmbeddingExport("npy", tmp_path / "x"))
    nothing = write_encoder(tmp_path / "nothing", unit_rows(0, 4, 0))
    with pytest.raises(InputError, match="the encoder has no concepts"):
        export_embeddings(nothing, EmbeddingExport("npy", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_an_older_export_is_replaced_and_nothing_else_is(small: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / ENDING[kind]
    other = write_encoder(tmp_path / "other", unit_rows(9, 4, 1))
    for folder, count in ((small, 5), (other, 9), (small, 5)):
        export_embeddings(folder, EmbeddingExport(kind, out))
        assert len(read_back(kind, out)[0]) == count
    notes = tmp_path / "notes.md"
    notes.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"notes\.md: this (file exists and is no \*|is a file; expected a folder)"):
        export_embeddings(small, EmbeddingExport(kind, notes))
    assert notes.read_text(encoding="utf-8") == "mine"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"d: this (is a folder; format|folder holds something else)"):
        export_embeddings(small, EmbeddingExport(kind, tmp_path / "d"))
    with pytest.raises(InputError, match=r"cannot create the (output folder|file) \((Not a directory|File exists)\)"):
        export_embeddings(small, EmbeddingExport(kind, notes / "x" / ENDING[kind]))
    left = {path.name for path in tmp_path.iterdir()} - {"e", "other", "notes.md", "d", "x", "x.tsv"} - {out.name}
    assert not left, "no file of a run that failed stays behind"


def test_ids_that_belong_to_something_else_are_kept(small: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.tsv: this file exists"):
        export_embeddings(small, EmbeddingExport("npy", tmp_path / "x.npy"))
    assert (tmp_path / "x.tsv").read_text(encoding="utf-8") == "mine"
    done = export_embeddings(small, EmbeddingExport("npy", tmp_path / "y.bin"))
    assert [path.name for path in done.files] == ["y.bin", "y.bin.tsv"]


def test_the_encoder_itself_is_never_written_to(small: Path) -> None:
    before = {path: path.read_bytes() for path in small.iterdir()}
    for out in (small / "concepts.parquet", small, small / "new" / "x.parquet"):
        with pytest.raises(InputError, match="this is inside the encoder"):
            export_embeddings(small, EmbeddingExport("parquet", out))
    assert {path: path.read_bytes() for path in small.iterdir()} == before


@pytest.mark.parametrize("kind", FORMATS)
def test_a_changed_encoder_is_not_exported(small: Path, tmp_path: Path, kind: str) -> None:
    data = bytearray((small / "vectors.safetensors").read_bytes())
    data[-1] ^= 1
    (small / "vectors.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"vectors\.safetensors: digests disagree"):
        export_embeddings(small, EmbeddingExport(kind, tmp_path / ENDING[kind]))
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_a_run_that_fails_leaves_the_older_export(tmp_path: Path, command: Command) -> None:
    folder = write_encoder(tmp_path / "e", unit_rows(3000, 4, 0))
    for kind in FORMATS:
        out = tmp_path / "out" / ENDING[kind]
        run = ("kgkit", "export-embeddings", folder, "--format", kind, "--out", out)
        assert command(*run)[0] == 0
        before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # as a disk that is full
        try:
            code, _, err = command(*run)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert code == 1
        assert "File too large" in err
        assert err.count("\n") == 1
        after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert before.items() <= after.items()
        assert {path.parent.name for path in after.keys() - before.keys()} <= {"x.partial"}
        shutil.rmtree(tmp_path / "out")


def test_the_command(tiny_encoder: Path, tmp_path: Path, command: Command) -> None:
    code, out, err = command(
        "kgkit", "export-embeddings", tiny_encoder, "--format", "word2vec", "--out", tmp_path / "x.txt",
        "--semantic-group", "ANAT", "--max-licence-level", 0,
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = read_word2vec(tmp_path / "x.txt")
    assert out == f"{len(found)} vectors of length 64; written to {tmp_path / 'x.txt'}\n"
    shut = Path(shutil.copytree(tiny_encoder, tmp_path / "shut"))
    manifest = json.loads((shut / "manifest.json").read_text(encoding="utf-8"))
    (shut / "manifest.json").write_text(json.dumps(manifest | {"licence_level": 3}), encoding="utf-8")
    code, out, _ = command("kgkit", "export-embeddings", shut, "--format", "npy", "--out", tmp_path / "x.npy")
    assert code == 0
    assert "note: licence level 3; whoever gets them needs the licences of the sources" in out
