"""A tiny chest graph, text model, recipe and encoder folder; the concepts are invented placeholders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from rrf import Rrf
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from kgkit.arrays import FloatArray, IntArray
from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS
from kgkit.encoder.config import EncoderRecipe
from kgkit.encoder.integrity import describe_parts, encoder_digest
from kgkit.files import write_manifest
from kgkit.graph.store import ingest
from kgkit.recipe import load_recipe
from kgkit.sources.base import IngestLog
from kgkit.sources.umls import read_umls
from kgkit.training.corpus import Corpus
from kgkit.views.splits import TripleSplit
from kgkit.views.triples import TripleView

CONCEPTS = """
body part           | T017 | part of the body; anatomical structure       |
thorax              | T023 | chest; thoracic cage                         | The body between neck and diaphragm.
lung                | T023 | lungs; pulmonary organ                       | The organ of breathing.
left lung           | T023 | lung on the left                             |
right lung          | T023 | lung on the right; dextral lung              |
upper lobe          | T023 | upper lobe of lung; superior lobe            |
lower lobe          | T023 | lower lobe of lung; inferior lobe            |
pleura              | T023 | pleural membrane; lining of the lung         | The thin lining around the lung.
pleural cavity      | T030 | pleural space; cavity of the pleura          | The space between the two layers of pleura.
heart               | T023 | cardiac organ; cor                           | The organ that pumps blood.
left ventricle      | T023 | left chamber of heart; LV                    |
pericardium         | T023 | pericardial sac; lining of the heart         |
mediastinum         | T023 | mediastinal region; middle of the chest      |
diaphragm           | T023 | breathing muscle; diaphragm muscle           |
rib                 | T023 | ribs; costal bone                            | A curved bone of the chest.
clavicle            | T023 | collar bone; collarbone                      |
trachea             | T023 | windpipe; main airway                        |
bronchus            | T023 | bronchi; airway of the lung                  |
aorta               | T023 | main artery; aortic vessel                   |
disease             | T047 | disorder; illness                            | A condition that harms the body.
lung disease        | T047 | pulmonary disease; disease of the lung       | A disease of the lung.
pneumonia           | T047 | lung infection; PNEUMONIA; infected lung     | An infection that fills the lung with fluid.
lobar pneumonia     | T047 | pneumonia of a lobe; lobar lung infection    |
bronchopneumonia    | T047 | bronchial pneumonia; patchy pneumonia        |
pulmonary edema     | T046 | fluid in the lung; lung edema; Wet-Lung      | Or wet lung: fluid in its air spaces.
atelectasis         | T046 | collapse of lung; lung collapse              | A loss of lung volume from collapse.
emphysema           | T047 | destroyed air spaces; pulmonary emphysema    | Large air spaces with destroyed walls.
tuberculosis        | T047 | tb infection; TB                             | An infection by mycobacteria.
pleural disease     | T047 | disease of the pleura; pleural disorder      |
pleural effusion    | T047 | fluid around the lung; effusion              | Fluid between lung and chest wall.
pneumothorax        | T047 | air around the lung; PTX                     | Air in the pleural cavity.
tension pneumothorax| T047 | pneumothorax under tension; tension ptx      |
hemothorax          | T047 | blood around the lung; haemothorax           | Blood in the pleural cavity.
heart disease       | T047 | cardiac disease; disease of the heart        |
cardiomegaly        | T047 | enlarged heart; big heart; heart enlargement | A heart larger than half of the chest.
heart failure       | T047 | cardiac failure; failure of the heart        | A heart that pumps too little blood.
pericardial effusion| T047 | fluid around the heart; effusion             | Fluid in the sac around the heart.
fracture            | T037 | broken bone; bone fracture                   | A broken bone.
rib fracture        | T037 | broken rib; fracture of rib                  |
clavicle fracture   | T037 | broken collarbone; fracture of clavicle      |
opacity             | T033 | shadow; white area; density                  | A white area on the film.
consolidation       | T033 | dense lung; airspace consolidation           | Air spaces filled with fluid.
image artefact      | T073 | film artefact; artifact of the image         |
"""  # the last one has no relation; `effusion` names two concepts

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
"""

SPECIAL = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}

SMALL = (
    "text.max_name_tokens=12", "text.max_definition_tokens=24", "text.frozen_layers=0", "graph.hidden_dim=32",
    "graph.num_bases=3", "graph.fanouts=[6]", "train.steps=20", "train.synonym_pairs=16", "train.definitions=6",
    "relation.triples=32", "relation.negatives=12", "relation.live_triples=8", "train.text_learning_rate=1e-3",
    "train.graph_learning_rate=1e-2", "held_out.names=0.1", "held_out.definitions=0.1", "held_out.triples=0.1",
    "held_out.concepts=0.05", "train.precision=fp32", "train.checkpoint_every=8", "train.log_every=1",
)  # fmt: skip


def concept_rows() -> list[tuple[str, str, list[str], str]]:
    """(preferred name, semantic type, synonyms, definition or "") of each concept."""
    rows = [[field.strip() for field in line.split("|")] for line in CONCEPTS.strip().splitlines()]
    return [(name, tui, synonyms.split("; "), definition) for name, tui, synonyms, definition in rows]


CUI = {row[0]: f"C9{number:06d}" for number, row in enumerate(concept_rows(), 1)}
CURIE = {name: f"umls:{cui}" for name, cui in CUI.items()}


def tiny_thorax(*, relations: bool = True, definitions: bool = True, synonyms: bool = True) -> Rrf:
    """The tables above as RRF rows; both halves of the lung share the code 77."""
    rrf = Rrf().row("MRSAB", {"RSAB": "TST", "SVER": "1", "VSAB": "TST1", "SON": "Invented vocabulary", "CURVER": "Y"})
    for name, tui, terms, definition in concept_rows():
        code = "77" if name in ("left lung", "right lung") else CUI[name][-3:]
        rrf.atom(CUI[name], name, code=code).semantic_type(CUI[name], tui)
        for term in terms if synonyms else ():
            short = term.isupper() and len(term) < 4
            rrf.atom(CUI[name], term, tty="AB" if short else "SY", code=code, values={"TS": "S"})
        if definition and definitions:
            rrf.definition(CUI[name], definition)
    for line in RELATIONS.strip().splitlines() if relations else ():
        relation, facts = line.split(": ")
        for fact in facts.split("; "):
            head, tail = (CUI[name] for name in fact.split(" > "))
            rrf.relation(tail, "RO", head, relation)  # a row reads CUI2 RELA CUI1
    return rrf


def make_graph(folder: Path, rrf: Rrf) -> Path:
    """Ingest RRF rows into `folder`/kg."""
    log = IngestLog()
    ingest(folder / "kg", read_umls(rrf.write(folder / "META"), log, release="tiny"), log)
    return folder / "kg"


def write_text_model(folder: Path) -> Path:
    """A BERT of two layers with random weights; its WordPieces are the graph's words and all letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = sorted(set(re.findall(r"[a-z]+", CONCEPTS.lower())) | set(letters + ".,"))
    pieces = [*SPECIAL.values(), *words, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **SPECIAL).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def small_recipe(text_model: Path, *changes: str) -> EncoderRecipe:
    """The bundled recipe `fast`, made small, with `key=value` changes on top."""
    return load_recipe(EncoderRecipe, "encoder", "fast", [f'text.model="{text_model}"', *SMALL, *changes])


def write_encoder(
    folder: Path,
    vectors: FloatArray,
    *,
    names: Sequence[tuple[str, int]] = (),
    name_vectors: FloatArray | None = None,
    parents: Sequence[Sequence[str]] | None = None,
    codes: Sequence[Sequence[str]] | None = None,
    types: Sequence[Sequence[str]] | None = None,
    titles: Sequence[str] | None = None,
    licence_level: int = 0,
) -> Path:
    """An ENCODER folder of any size without a text tower, with true digests.

    Concept i is `test:<i>` in six digits, its preferred name is `titles[i]`; `names` holds (concept, row among the name
    vectors).
    """
    folder.mkdir()
    count, dim = vectors.shape
    columns = (
        [f"test:{row:06d}" for row in range(count)], titles or [f"name {row}" for row in range(count)],
        types or [["T047"]] * count, [None] * count, codes or [[]] * count, parents or [[]] * count,
    )  # fmt: skip
    table = pl.DataFrame(dict(zip(CONCEPT_COLUMNS, columns, strict=True)), schema=CONCEPT_COLUMNS)
    table.write_parquet(folder / "concepts.parquet")
    listed = [(concept, f"other {row}", "TST", False, "en", False, row) for concept, row in names]
    pl.DataFrame(listed, schema=NAME_COLUMNS, orient="row").write_parquet(folder / "names.parquet")
    second = np.zeros((0, dim)) if name_vectors is None else name_vectors
    arrays = {"concepts": vectors, "names": second}
    save_file(
        {key: np.ascontiguousarray(value, dtype=np.float32) for key, value in arrays.items()},
        folder / "vectors.safetensors",
    )
    parts = describe_parts(folder)
    about = {"dim": dim, "num_concepts": count, "licence_level": licence_level}
    write_manifest(folder, "encoder", about | {"encoder_digest": encoder_digest(parts), "parts": parts})
    return folder


def unit_rows(count: int, dim: int, seed: int) -> FloatArray:
    """Random float32 [count, dim] with rows of unit norm."""
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def random_triples(count: int, num_concepts: int, num_relations: int, seed: int) -> IntArray:
    """Distinct facts without self-loops, sorted; int64 [<= count, 3]."""
    generator = np.random.default_rng(seed)
    sizes = (num_concepts, num_relations, num_concepts)
    triples = np.stack([generator.integers(0, size, count) for size in sizes], axis=1)
    return np.unique(triples[triples[:, 0] != triples[:, 2]], axis=0)


def bare_corpus(triples: IntArray, num_concepts: int, num_relations: int) -> Corpus:
    """A corpus of facts alone, all of them for training."""
    concepts = tuple(f"test:{row:06d}" for row in range(num_concepts))
    view = TripleView(concepts, tuple(f"relation_{row}" for row in range(num_relations)), triples)
    split = TripleSplit(triples, triples[:0], triples[:0], seed=0)
    return Corpus(view, split, concepts, tuple((name,) for name in concepts), (), ())
