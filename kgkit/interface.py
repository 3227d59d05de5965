"""All that vlp may see of kgkit: the shared words, the loaders, and the house rules for files and errors.

Importing this module loads neither torch nor faiss; a loaded encoder reads text with onnxruntime.
"""

from kgkit.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from kgkit.encoder.artifact import ConceptEncoder, load_encoder
from kgkit.encoder.integrity import load_verified_encoder
from kgkit.errors import InputError, KgkitError, UnknownConceptError, choices
from kgkit.files import (
    file_digests,
    partial_folder,
    partial_path,
    publish_folder,
    read_manifest,
    require_replaceable,
    require_unchanged,
    sha256_file,
    write_json_atomically,
    write_manifest,
    write_text_atomically,
)
from kgkit.findings import Finding, load_findings
from kgkit.languages import english
from kgkit.linking.linker import Linker, load_linker
from kgkit.linking.sections import split_sections
from kgkit.linking.sentences import split_sentences
from kgkit.progress import progress
from kgkit.recipe import Count, Fraction, Positive, Seed, changed_keys, load_recipe, recipe_to_dict
from kgkit.training_log import TrainingLog, draw_curve
from kgkit.types import (
    Certainty,
    Change,
    Experiencer,
    Mention,
    MentionKind,
    MentionRelation,
    ReportMentions,
    SearchHit,
    Temporality,
)

__all__ = [
    "BoolArray",
    "Certainty",
    "Change",
    "ConceptEncoder",
    "Count",
    "DoubleArray",
    "Experiencer",
    "Finding",
    "FloatArray",
    "Fraction",
    "InputError",
    "IntArray",
    "KgkitError",
    "Linker",
    "Mention",
    "MentionKind",
    "MentionRelation",
    "Positive",
    "ReportMentions",
    "SearchHit",
    "Seed",
    "Temporality",
    "TrainingLog",
    "UnknownConceptError",
    "changed_keys",
    "choices",
    "draw_curve",
    "english",
    "file_digests",
    "load_encoder",
    "load_findings",
    "load_linker",
    "load_recipe",
    "load_verified_encoder",
    "partial_folder",
    "partial_path",
    "progress",
    "publish_folder",
    "read_manifest",
    "recipe_to_dict",
    "require_replaceable",
    "require_unchanged",
    "sha256_file",
    "split_sections",
    "split_sentences",
    "write_json_atomically",
    "write_manifest",
    "write_text_atomically",
]
