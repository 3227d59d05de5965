"""Artifact folders: complete or not there at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit.errors import InputError, choices
from kgkit.files import (
    FORMAT_VERSIONS,
    partial_folder,
    provenance,
    publish_folder,
    read_manifest,
    require_replaceable,
    sha256_file,
    write_json_atomically,
    write_manifest,
    write_text_atomically,
)


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_writing_leaves_the_new_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text_atomically(path, "old")
    write_text_atomically(path, "new ✓\n")
    assert path.read_bytes() == "new ✓\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json_atomically(path, {"a": "é"})
    with pytest.raises(UnicodeEncodeError):
        write_json_atomically(path, {"a": "\ud800"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}


def test_a_manifest_is_read_back_with_its_provenance(tmp_path: Path) -> None:
    write_manifest(tmp_path, "kg", {"graph_digest": "d", "sources": {}})
    manifest = read_manifest(tmp_path, "kg")
    assert (manifest["kind"], manifest["graph_digest"]) == ("kg", "d")
    assert manifest["provenance"] == provenance()
    assert {"kgkit", "python", "git_revision", "versions"} == set(manifest["provenance"])
    assert manifest["provenance"]["versions"]["polars"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "{folder}: not a concept encoder: it has no manifest.json (an unfinished run leaves none)"),
        ('{"kind": "kg", "format_version": 1}', "{folder}: this is a knowledge graph, expected a concept encoder"),
        ('{"kind": "cake"}', "{folder}: this is a folder of unknown kind, expected a concept encoder"),
        ("[1]", "{folder}: this is a folder of unknown kind, expected a concept encoder"),
        (
            '{"kind": "encoder", "format_version": 99}',
            "{folder}/manifest.json: format version 99, this kgkit reads 1; make it again",
        ),
        ('{"kind": ', "{folder}/manifest.json: not readable as JSON ("),
    ],
)
def test_a_wrong_folder_is_refused_by_what_it_is(tmp_path: Path, manifest: str | None, message: str) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_manifest(tmp_path, "encoder")
    assert str(error.value).startswith(message.format(folder=tmp_path))


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such folder; expected a trained model"):
        read_manifest(tmp_path / "none", "model")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file: not a trained model: it has no manifest\.json"):
        read_manifest(tmp_path / "file", "model")


def test_an_unfinished_folder_does_not_load_and_does_not_disturb_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "out"
    for text in ("old", "new"):
        partial = partial_folder(final, "data")
        (partial / "content").write_text(text)
        with pytest.raises(InputError):
            read_manifest(partial, "data")
        if text == "new":
            assert (final / "content").read_text() == "old"
        write_manifest(partial, "data", {})
        publish_folder(partial, final)
    assert (final / "content").read_text() == "new"
    assert read_manifest(final, "data")["kind"] == "data"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_under_way_is_read_by_the_process_that_writes_it_alone(tmp_path: Path) -> None:
    partial = partial_folder(tmp_path / "out", "encoder")
    write_manifest(partial, "encoder", {})
    assert read_manifest(partial, "encoder")["kind"] == "encoder"
    read = "from pathlib import Path; from kgkit.files import read_manifest; "
    read += f"read_manifest(Path({str(partial)!r}), 'encoder')"
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=False)
    assert "out.partial: an unfinished concept encoder: wait for the run that makes it, or resume it" in done.stderr
    publish_folder(partial, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


def test_a_resumed_run_keeps_its_partial_folder(tmp_path: Path) -> None:
    (partial_folder(tmp_path / "out", "data") / "step").touch()
    assert (partial_folder(tmp_path / "out", "data", keep=True) / "step").exists()
    assert not (partial_folder(tmp_path / "out", "data") / "step").exists()


def test_folders_that_no_run_has_left_are_not_touched(tmp_path: Path) -> None:
    for name in ("out.partial", "out.previous"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match=r"out\.partial: work would be done here, but no unfinished run left this"):
        partial_folder(tmp_path / "out", "data")
    (tmp_path / "out.partial").rename(tmp_path / "mine")
    for _ in range(2):
        publish_folder(partial_folder(tmp_path / "out", "data"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert {path.parent.name for path in tmp_path.rglob("thesis.txt")} == {"mine", "out.previous"}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.previous", "mine"}


def test_only_a_folder_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    for kind in FORMAT_VERSIONS:
        (tmp_path / kind).mkdir()
        write_manifest(tmp_path / kind, kind, {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('["a web page has one of these, too"]')
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for kind in FORMAT_VERSIONS:
        for name in ("nowhere", "empty", kind):
            require_replaceable(tmp_path / name, kind)
        for other in FORMAT_VERSIONS.keys() - {kind}:
            with pytest.raises(InputError, match=rf"{other}: this folder is a .*; name another for the "):
                partial_folder(tmp_path / other, kind, keep=True)
        with pytest.raises(InputError, match=r"mine: this folder holds something else; name another for the "):
            partial_folder(tmp_path / "mine", kind)
        with pytest.raises(InputError, match=r"file: this is a file; expected a folder to write the "):
            partial_folder(tmp_path / "file", kind)
    assert not list(tmp_path.glob("*.partial"))


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file/out\.partial: cannot create the output folder"):
        partial_folder(tmp_path / "file" / "out", "data")


def test_an_error_names_file_and_line() -> None:
    assert str(InputError("bad row")) == "bad row"
    assert str(InputError("bad row", "a.csv")) == "a.csv: bad row"
    assert str(InputError("bad row", "a.csv", 7)) == "a.csv, line 7: bad row"


@given(
    st.lists(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), min_size=1, unique=True), st.data()
)
def test_choices_name_all_of_a_few_and_the_near_ones_of_many(known: list[str], data: st.DataObject) -> None:
    given_name = data.draw(st.sampled_from(known)) + "x"
    text = choices(given_name, known)
    if len(known) <= 8:
        assert text.endswith("choices: " + ", ".join(sorted(known)))
    else:
        assert text.endswith(f"({len(known)} in all)")
