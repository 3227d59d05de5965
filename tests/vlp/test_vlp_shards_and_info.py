"""Tar shards, and what `vlp data-info` says of a folder."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from tiny_layouts import film, read_table, save, write_csv, write_mimic, write_nih, write_table
from tiny_vlp import put_table

from kgkit.interface import InputError
from vlp.data.film_reader import FilmLoader, FilmReader, LoaderConfig
from vlp.data.info import data_info
from vlp.data.prepare import PrepareConfig, prepare
from vlp.data.prepared import load_data
from vlp.data.shards import ShardConfig, shard


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("mimic")
    write_mimic(folder / "SRC")
    prepare(PrepareConfig("mimic-cxr", folder / "SRC", tiny_encoder_dir, folder / "DATA"))
    return folder / "DATA"


def test_the_same_loader_reads_shards(mimic: Path, tmp_path: Path) -> None:
    done = shard(ShardConfig(mimic, tmp_path / "SHARDS", films_per_shard=4))
    assert done.films == {"train": 8, "val": 1, "test": 3}
    assert done.shards == 4
    plain, sharded = load_data(mimic), load_data(tmp_path / "SHARDS")
    assert sharded.digest == plain.digest
    assert sharded.mentions.equals(plain.mentions)
    for split in ("train", "val", "test"):
        batches = []
        for data in (plain, sharded):
            films = data.films(data.study_ids(split), frontal_only=False)
            loader = FilmLoader(FilmReader(data), films, LoaderConfig(32, 3, seed=1))
            batches.append(np.concatenate([batch.squares for batch in loader.epoch(2)]))
        assert np.array_equal(*batches)


def test_samples_stream_in_order_with_all_that_is_known(mimic: Path, tmp_path: Path) -> None:
    """Read as the webdataset package does: neighbours in the tar that share a key are one sample."""
    shard(ShardConfig(mimic, tmp_path / "SHARDS", films_per_shard=5, split="train"))
    data = load_data(tmp_path / "SHARDS")
    films = data.films(data.study_ids("train"), frontal_only=False)
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted((tmp_path / "SHARDS" / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
    reader = FilmReader(data)
    for sample, row in zip(samples.values(), films.iter_rows(named=True), strict=True):
        assert list(sample) == ["json", "png"]
        said = json.loads(sample["json"])
        assert (said["study_id"], said["path"], said["split"]) == (row["study_id"], row["path"], "train")
        pixels = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert np.array_equal(pixels, np.rint(reader.film(row) * 255))
        own = data.mentions.filter(study_id=row["study_id"])
        assert [mention["text"] for mention in said["mentions"]] == own["text"].to_list()
        assert said["text"] == data.studies.filter(study_id=row["study_id"])["text"][0]
        assert set(said["labels"]) <= set(data.labels)


def test_the_same_data_give_the_same_shards_and_a_part_has_a_digest_of_its_own(mimic: Path, tmp_path: Path) -> None:
    for name in "AB":
        shard(ShardConfig(mimic, tmp_path / name, films_per_shard=4))
    for path in sorted((tmp_path / "A" / "shards").iterdir()):
        assert path.read_bytes() == (tmp_path / "B" / "shards" / path.name).read_bytes()
    shard(ShardConfig(mimic, tmp_path / "C", split="test"))
    assert load_data(tmp_path / "C").digest != load_data(mimic).digest
    assert set(load_data(tmp_path / "C").splits["split"]) == {"test"}


def test_shards_of_shards_and_of_films_in_their_files(mimic: Path, tmp_path: Path) -> None:
    shard(ShardConfig(mimic, tmp_path / "A", side=32))
    shard(ShardConfig(tmp_path / "A", tmp_path / "B", side=32))
    a, b = load_data(tmp_path / "A"), load_data(tmp_path / "B")
    assert a.images.equals(b.images)
    assert max(a.images["stored_height"]) == 32


def test_wrong_sharding_is_refused_and_a_stopped_one_leaves_nothing(
    mimic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"splits\.csv: no split 'tset'; did you mean 'test'\?"):
        shard(ShardConfig(mimic, tmp_path / "S", split="tset"))
    with pytest.raises(InputError, match="the shards would replace the folder they are made from"):
        shard(ShardConfig(mimic, mimic))
    with pytest.raises(InputError, match="0 films a shard of side 512, expected at least 1"):
        shard(ShardConfig(mimic, tmp_path / "S", films_per_shard=0))

    parts = pl.read_csv(mimic / "splits.csv", infer_schema=False)
    bare = Path(shutil.copytree(mimic, tmp_path / "BARE"))
    images = pl.read_parquet(mimic / "images.parquet").join(parts, on="study_id").filter(pl.col("split") != "val")
    put_table(images.drop("split", "patient_id"), bare / "images.parquet")
    with pytest.raises(InputError, match=r"BARE: no film in val"):
        shard(ShardConfig(bare, tmp_path / "S", split="val"))
    assert not list(tmp_path.glob("S*"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vlp.data.shards._write_tables", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shard(ShardConfig(mimic, tmp_path / "S"))
    for folder in ("S", "S.partial"):
        with pytest.raises(InputError, match=r"no such folder|it has no manifest"):
            load_data(tmp_path / folder)


# ---------------------------------------------------------------------------------------------------- data-info


def test_counts_and_prevalence_equal_those_counted_by_hand(mimic: Path) -> None:
    info = data_info(mimic)
    train = info["parts"]["train"]
    assert (train["studies"], train["patients"], train["films"], train["reports"]) == (5, 5, 8, 4)
    assert train["views"] == {"frontal": 5, "lateral": 3}
    assert train["projections"] == {"AP": 2, "LATERAL": 3, "PA": 3}
    effusion = info["labels"]["Pleural Effusion"]
    assert effusion["finding"] == "pleural_effusion"
    assert effusion["parts"]["train"] == {"positive": 0, "negative": 4, "uncertain": 1, "unknown": 0}
    heart = info["labels"]["Cardiomegaly"]["parts"]
    assert (heart["train"]["positive"], heart["test"]["positive"]) == (2, 1)
    said = info["concepts"]["umls:C0018800"]
    # studies 2 (4 has no report) and 5 say it is there, 1 and 3 deny it; 6 is val; of 7 and 8 the latter has it
    assert said["parts"]["train"] == {"present": 2, "uncertain": 0, "absent": 2}
    assert said["parts"]["test"] == {"present": 1, "uncertain": 0, "absent": 1}
    assert said["name"] == "Cardiomegaly"
    assert info["leakage"]["patients"]["count"] == 0


def test_leaks_are_found_and_named(tmp_path: Path) -> None:
    """The same file, the same picture in another format, the same words and the same patient in two parts."""
    source = tmp_path / "SRC"
    write_csv(source)
    header, *rows = read_table(source / "films.csv")
    (source / "films" / "6.png").write_bytes((source / "films" / "0.png").read_bytes())
    Image.open(source / "films" / "1.png").save(source / "films" / "7.bmp")
    for row in rows:
        row[0] = row[0].replace("7.png", "7.bmp")
        row[7] = (
            row[7] + f" Study number {'abcdefghi'[int(row[1][1:])]}."
            if row[1] not in ("s2", "s6")
            else "Same WORDS, 12."
        )
    rows[6][7] = "same words; 13"
    write_table(source / "films.csv", header, rows)
    from kgkit.interface import ReportMentions

    class Silent:
        def link(self, report_id: str, text: str) -> ReportMentions:
            return ReportMentions(report_id, text)

    prepare(PrepareConfig("csv", source, None, tmp_path / "DATA"), linker=Silent())
    found = data_info(tmp_path / "DATA")["leakage"]
    assert {name: entry["count"] for name, entry in found.items()} == {
        "patients": 0, "same_file": 1, "same_look": 1, "same_report": 1,
    }  # fmt: skip
    assert found["same_file"]["cases"][0]["what"] == ["films/0.png", "films/6.png"]
    assert found["same_look"]["cases"][0]["what"] == ["films/1.png", "films/7.bmp"]
    assert found["same_report"]["cases"][0] == {
        "key": "findings same words", "splits": ["test", "train"], "what": ["s2", "s6"],
    }  # fmt: skip
    splits = pl.read_csv(tmp_path / "DATA" / "splits.csv").with_columns(patient_id=pl.lit("one"))
    put_table(splits, tmp_path / "DATA" / "splits.csv")
    leak = data_info(tmp_path / "DATA")["leakage"]["patients"]
    assert leak == {"count": 1, "cases": [{"key": "one", "splits": ["test", "train", "val"],
                                           "what": ["s0", "s1", "s2", "s3", "s4"]}]}  # fmt: skip


def test_the_commands_tell_it(
    mimic: Path, tmp_path: Path, tiny_encoder_dir: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    write_nih(tmp_path / "SRC")
    (tmp_path / "SRC" / "images_001" / "images" / "00000002_000.png").write_bytes(b"")
    code, out, _ = command("vlp", "prepare", "nih", tmp_path / "SRC", "--out", tmp_path / "DATA", "--val-fraction", 0.5)
    assert code == 0
    assert "23 films, 0 mentions; written to" in out
    assert "skipped 1: empty file, not an image (first: images_001/images/00000002_000.png)" in out
    assert "note: no reports: a set to test on or to finetune with" in out
    code, out, _ = command("vlp", "data-info", mimic)
    assert code == 0
    assert "mimic-cxr (mimic-cxr-2.0.0-metadata.csv.gz), split: the source's own, mentions: linker" in out
    assert "Pleural Effusion             test 0/2 (0.0%), train 0/4 +1? (0.0%), val 0/1 (0.0%)" in out
    assert "0 patients in two parts" in out
    code, out, _ = command("vlp", "data-info", mimic, "--json")
    assert json.loads(out)["parts"]["val"]["films"] == 1
    code, out, _ = command("vlp", "shard", mimic, "--out", tmp_path / "SHARDS", "--films-per-shard", 4)
    assert (code, out.split(";")[0]) == (0, "films: test 3, train 8, val 1")
    code, out, err = command("vlp", "shard", tmp_path, "--out", tmp_path / "S2")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "not a prepared data: it has no manifest.json" in err
    code, _, err = command("vlp", "prepare", "csv", tmp_path / "SRC", "--out", tmp_path / "D2", "--where", "a")
    assert (code, err) == (1, "vlp: --where 'a': expected COLUMN=VALUE\n")


def test_a_corrupt_film_in_shards_made_from_files_is_named(tmp_path: Path) -> None:
    save(tmp_path / "SRC" / "a.png", film(1))
    write_table(tmp_path / "SRC" / "films.csv", ("path",), [("a.png",)])
    from vlp.data.decode import DecodeOptions

    prepare(PrepareConfig("csv", tmp_path / "SRC", None, tmp_path / "DATA", decode=DecodeOptions(side=0)))
    (tmp_path / "SRC" / "a.png").write_bytes(b"gone bad")
    with pytest.raises(InputError, match=r"SRC/a\.png: not an image"):
        shard(ShardConfig(tmp_path / "DATA", tmp_path / "SHARDS"))
    assert not (tmp_path / "SHARDS").exists()
