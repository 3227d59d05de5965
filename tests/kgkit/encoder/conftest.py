"""A tiny graph, a tiny text model and an encoder trained on them, each made once per run.

The concepts are invented placeholders; their words are ordinary chest radiology.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by OpenMP when torch loads it

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS, FloatArray
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.training import train_encoder
from kgkit.files import write_manifest
from kgkit.graph.store import ingest
from kgkit.recipe import load_recipe
from kgkit.sources.base import IngestLog
from kgkit.sources.umls import read_umls

torch.set_num_threads(1)

Recipe = Callable[..., EncoderRecipe]
Encoder = Callable[..., Path]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

CONCEPTS = """
body part           | T017 | part of the body; anatomical structure      |
thorax              | T023 | chest; thoracic cage                        | The part of the body between neck and diaphragm.
lung                | T023 | lungs; pulmonary organ                      | The organ of breathing.
left lung           | T023 | lung on the left                            |
right lung          | T023 | lung on the right; dextral lung             |
upper lobe          | T023 | upper lobe of lung; superior lobe           |
lower lobe          | T023 | lower lobe of lung; inferior lobe           |
pleura              | T023 | pleural membrane; lining of the lung        | The thin lining around the lung.
pleural cavity      | T030 | pleural space; cavity of the pleura         | The space between the two layers of pleura.
heart               | T023 | cardiac organ; cor                          | The organ that pumps blood.
left ventricle      | T023 | left chamber of heart; LV                   |
pericardium         | T023 | pericardial sac; lining of the heart        |
mediastinum         | T023 | mediastinal region; middle of the chest     |
diaphragm           | T023 | breathing muscle; diaphragm muscle          |
rib                 | T023 | ribs; costal bone                           | A curved bone of the chest.
clavicle            | T023 | collar bone; collarbone                     |
trachea             | T023 | windpipe; main airway                       |
bronchus            | T023 | bronchi; airway of the lung                 |
aorta               | T023 | main artery; aortic vessel                  |
disease             | T047 | disorder; illness                           | A condition that harms the body.
lung disease        | T047 | pulmonary disease; disease of the lung      | A disease of the lung.
pneumonia           | T047 | lung infection; PNEUMONIA; infected lung    | An infection that fills the lung with fluid.
lobar pneumonia     | T047 | pneumonia of a lobe; lobar lung infection   |
bronchopneumonia    | T047 | bronchial pneumonia; patchy pneumonia       |
pulmonary edema     | T046 | fluid in the lung; lung edema; wet lung     | Fluid in the air spaces of the lung.
atelectasis         | T046 | collapse of lung; lung collapse             | A loss of lung volume from collapse.
emphysema           | T047 | destroyed air spaces; pulmonary emphysema   | Large air spaces with destroyed walls.
tuberculosis        | T047 | tb infection; TB                            | An infection by mycobacteria.
pleural disease     | T047 | disease of the pleura; pleural disorder     |
pleural effusion    | T047 | fluid around the lung; effusion             | Fluid in the space between lung and chest wall.
pneumothorax        | T047 | air around the lung; PTX                    | Air in the pleural cavity.
tension pneumothorax| T047 | pneumothorax under tension; tension ptx     |
hemothorax          | T047 | blood around the lung; haemothorax          | Blood in the pleural cavity.
heart disease       | T047 | cardiac disease; disease of the heart       |
cardiomegaly        | T047 | enlarged heart; big heart; heart enlargement| A heart larger than half of the chest.
heart failure       | T047 | cardiac failure; failure of the heart       | A heart that pumps too little blood.
pericardial effusion| T047 | fluid around the heart; effusion            | Fluid in the sac around the heart.
fracture            | T037 | broken bone; bone fracture                  | A broken bone.
rib fracture        | T037 | broken rib; fracture of rib                 |
clavicle fracture   | T037 | broken collarbone; fracture of clavicle     |
opacity             | T033 | shadow; white area; density                 | A white area on the film.
consolidation       | T033 | dense lung; airspace consolidation          | Air spaces filled with fluid.
image artefact      | T073 | film artefact; artifact of the image        |
"""

RELATIONS = """
isa: thorax > body part; lung > body part; left lung > lung; right lung > lung; heart > body part; pleura > body part
isa: rib > body part; clavicle > body part; trachea > body part; bronchus > body part; aorta > body part
isa: lung disease > disease; pneumonia > lung disease; lobar pneumonia > pneumonia; bronchopneumonia > pneumonia
isa: pulmonary edema > lung disease; atelectasis > lung disease; emphysema > lung disease; tuberculosis > lung disease
isa: pleural disease > disease; pleural effusion > pleural disease; pneumothorax > pleural disease
isa: tension pneumothorax > pneumothorax; hemothorax > pleural effusion; heart disease > disease
isa: cardiomegaly > heart disease; heart failure > heart disease; pericardial effusion > heart disease
isa: fracture > disease; rib fracture > fracture; clavicle fracture > fracture; consolidation > opacity
part_of: lung > thorax; heart > thorax; pleura > thorax; rib > thorax; trachea > thorax; mediastinum > thorax
part_of: upper lobe > lung; lower lobe > lung; bronchus > lung; pleural cavity > thorax; left ventricle > heart
part_of: pericardium > heart; diaphragm > thorax; clavicle > thorax; heart > mediastinum; aorta > mediastinum
finding_site: pneumonia > lung; lobar pneumonia > upper lobe; bronchopneumonia > bronchus; pulmonary edema > lung
finding_site: atelectasis > lower lobe; emphysema > lung; tuberculosis > upper lobe; pleural effusion > pleural cavity
finding_site: pneumothorax > pleural cavity; hemothorax > pleural cavity; cardiomegaly > left ventricle
finding_site: heart failure > heart; pericardial effusion > pericardium; rib fracture > rib; lung disease > lung
finding_site: clavicle fracture > clavicle; consolidation > lung; pleural disease > pleura; heart disease > heart
inverse_finding_site: lung > opacity; lung > tension pneumothorax
"""


def _concept_rows() -> list[tuple[str, str, list[str], str]]:
    rows = [[field.strip() for field in line.split("|")] for line in CONCEPTS.strip().splitlines()]
    return [(name, tui, synonyms.split("; "), definition) for name, tui, synonyms, definition in rows]


CUI = {row[0]: f"C9{number:06d}" for number, row in enumerate(_concept_rows(), 1)}
CURIE = {name: f"umls:{cui}" for name, cui in CUI.items()}


def write_rrf(folder: Path) -> Path:
    """The tables above in the Rich Release Format; both halves of the lung share a code, as UMLS codes may."""
    conso, types, definitions, relations = [], [], [], []
    for name, tui, synonyms, definition in _concept_rows():
        cui = CUI[name]
        code = "77" if name in ("left lung", "right lung") else cui[-3:]
        for term in (name, *synonyms):
            kind = "PT" if term == name else "AB" if term.isupper() and len(term) < 4 else "SY"
            status, number = ("P" if term == name else "S"), len(conso) + 1
            conso.append(f"{cui}|ENG|{status}|L{number:07d}|PF|S{number:07d}|Y|A{number:08d}||{code}||TST|{kind}"
                         f"|{code}|{term}|0|N||")  # fmt: skip
        types.append(f"{cui}|{tui}|A1|Type {tui}|AT{len(types):08d}||")
        if definition:
            definitions.append(f"{cui}|A00000001|AT{len(definitions):08d}||TST|{definition}|N||")
    for line in RELATIONS.strip().splitlines():
        relation, facts = line.split(": ")
        for fact in facts.split("; "):
            head, tail = (CUI[name] for name in fact.split(" > "))  # MRREL reads CUI2 RELA CUI1
            relations.append(f"{tail}||CUI|RO|{head}||CUI|{relation}|R{len(relations):08d}||TST|TST|||N||")
    vocabulary = "C9900002|C9900003|TST_1|TST|Invented test vocabulary|TST|1|||||||0||1|FULL|PT,SY,AB||ENG|UTF-8|Y|Y|T|T|"
    tables = {"MRCONSO": conso, "MRSTY": types, "MRDEF": definitions, "MRREL": relations, "MRSAB": [vocabulary]}
    folder.mkdir(parents=True)
    for table, lines in tables.items():
        (folder / f"{table}.RRF").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def make_graph(folder: Path, rrf: Path) -> Path:
    log = IngestLog()
    ingest(folder, read_umls(rrf, log, release="tiny"), log)
    return folder


@pytest.fixture(scope="session")
def tiny_rrf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rrf(tmp_path_factory.mktemp("rrf") / "META")


@pytest.fixture(scope="session")
def tiny_kg(tmp_path_factory: pytest.TempPathFactory, tiny_rrf: Path) -> Path:
    return make_graph(tmp_path_factory.mktemp("kg") / "kg", tiny_rrf)


@pytest.fixture(scope="session")
def tiny_text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights and a WordPiece vocabulary of the graph's words and all letters."""
    folder = tmp_path_factory.mktemp("text") / "model"
    words = sorted(set(re.findall(r"[a-z]+", CONCEPTS.lower())) | set("abcdefghijklmnopqrstuvwxyz.,"))
    pieces = [*SPECIAL, *words, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(names, SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tiny_text_model: Path) -> Recipe:
    """`tiny_recipe("train.steps=5", ...)`: the bundled recipe `fast`, made small, with these changes on top."""
    small = [
        f'text.model="{tiny_text_model}"', "text.max_name_tokens=12", "text.max_definition_tokens=24",
        "text.frozen_layers=0", "graph.hidden_dim=32", "graph.num_bases=3", "graph.fanouts=[6]", "train.steps=20",
        "train.synonym_pairs=16", "train.definitions=6", "train.triples=32", "train.negatives=12",
        "train.live_triples=8", "train.text_learning_rate=1e-3", "train.graph_learning_rate=1e-2",
        "train.held_out_names=0.1", "train.held_out_triples=0.1", "train.precision=fp32", "train.checkpoint_every=8",
        "train.log_every=1",
    ]  # fmt: skip

    def recipe(*changes: str) -> EncoderRecipe:
        return load_recipe(EncoderRecipe, "encoder", "fast", [*small, *changes])

    return recipe


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_kg: Path, tiny_recipe: Recipe) -> Path:
    out = tmp_path_factory.mktemp("encoder") / "encoder"
    train_encoder(tiny_kg, out, tiny_recipe())
    return out


@pytest.fixture
def write_encoder(tmp_path: Path) -> Encoder:
    """`write_encoder(vectors, parents=..., codes=..., types=...)`: an ENCODER folder without its text tower."""

    def write(
        vectors: FloatArray,
        *,
        parents: Sequence[Sequence[str]] | None = None,
        codes: Sequence[Sequence[str]] | None = None,
        types: Sequence[Sequence[str]] | None = None,
        name: str = "encoder",
        digest: str = "0" * 64,
    ) -> Path:
        folder, count = tmp_path / name, len(vectors)
        folder.mkdir()
        concepts = [f"test:{row:06d}" for row in range(count)]
        columns = (
            concepts, [f"name {row}" for row in range(count)], types or [["T047"]] * count, [None] * count,
            codes or [[]] * count, parents or [[]] * count,
        )  # fmt: skip
        table = pl.DataFrame(dict(zip(CONCEPT_COLUMNS, columns, strict=True)), schema=CONCEPT_COLUMNS)
        table.write_parquet(folder / "concepts.parquet")
        pl.DataFrame(schema=NAME_COLUMNS).write_parquet(folder / "names.parquet")
        save_file({"concepts": np.ascontiguousarray(vectors, dtype=np.float32)}, folder / "vectors.safetensors")
        write_manifest(folder, "encoder", {"encoder_digest": digest, "dim": vectors.shape[1], "num_concepts": count})
        return folder

    return write


def unit_rows(count: int, dim: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
