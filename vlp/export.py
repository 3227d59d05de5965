"""`vlp export`: a model and its queries as ONNX, which runs with onnxruntime, numpy and Pillow alone.

After the queries are embedded once nothing of the concept encoder is needed, and the image tower and the query network
are one graph: film in, logits and heat maps out. Arithmetic is float32; in torch a model whose recipe says bf16
differs from that by the rounding of bf16, on a processor that has it.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kgkit.interface import (
    InputError,
    partial_folder,
    publish_folder,
    write_json_atomically,
    write_manifest,
    write_text_atomically,
)
from vlp import runner
from vlp.artifact import VlpModel, load_model
from vlp.denial import ResolvedQueries
from vlp.evaluation.calibration import CALIBRATION_FILE
from vlp.queries import resolve_queries

TOLERANCE = 1e-4
_PROBES = 3
_OPSET = 18


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """One export.

    Attributes:
        model_dir: MODEL folder.
        out_dir: Folder to make: model.onnx, queries.json, queries.npy, runner.py.
        queries: What goes into the query pack; empty for every query of the model.
        encoder_dir: ENCODER for queries the model does not hold; by default where it stood at training.
    """

    model_dir: Path
    out_dir: Path
    queries: tuple[str, ...] = ()
    encoder_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written.

    Attributes:
        out_dir: The folder.
        queries: Queries in the pack.
        megabytes: Size of the graph.
        difference: Largest difference of a probability from torch in float32, on probe films.
    """

    out_dir: Path
    queries: int
    megabytes: float
    difference: float


class _WholeModel(nn.Module):
    """Tower and network as one: squares float32 [B, S, S], vectors float32 [K, E]; logits and maps of Q queries."""

    def __init__(self, model: VlpModel, resolved: ResolvedQueries) -> None:
        super().__init__()
        self.tower = model.tower
        self.network = model.network
        self.resolved = resolved

    def forward(self, squares: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(self.tower(squares).to(torch.float16), queries)  # rounded as cached features are
        return self.resolved.read(output.logits), output.attention[:, : len(self.resolved.queries)]


def export(config: ExportConfig) -> ExportSummary:
    """Write the folder, after a check that it answers as torch does.

    Raises:
        InputError: if the model or a query is not what it should be, or the written graph answers otherwise.
    """
    model = load_model(config.model_dir)
    resolved = resolve_queries(model, config.queries, config.encoder_dir)
    partial = partial_folder(config.out_dir, "onnx")
    _write_graph(model, resolved, partial / runner.MODEL_FILE)
    pack = [asdict(query) for query in resolved.queries]
    size = model.recipe.tower.input_size
    info = {"input_size": size, "first_centre": model.patches.first_centre, "queries": pack}
    write_json_atomically(partial / runner.QUERIES_FILE, info)
    np.save(partial / runner.VECTORS_FILE, resolved.vectors.numpy().astype(np.float32))
    source = Path(runner.__file__).read_text(encoding="utf-8")
    write_text_atomically(partial / "runner.py", source)
    kept = config.model_dir / CALIBRATION_FILE
    if kept.is_file():
        shutil.copyfile(kept, partial / CALIBRATION_FILE)
    difference = _compare(model, resolved, partial)
    if not difference <= TOLERANCE:  # NaN is no agreement
        raise InputError(f"the exported graph differs from torch by {difference:.1e}, at most {TOLERANCE} is wanted")
    names = ("encoder_digest", "data_digest", "dataset", "data_licence", "licence_level")
    content = {name: model.manifest.get(name) for name in names}
    write_manifest(partial, "onnx", content | {"difference_from_torch": difference})
    publish_folder(partial, config.out_dir)
    megabytes = (config.out_dir / runner.MODEL_FILE).stat().st_size / 1e6
    return ExportSummary(config.out_dir, len(pack), megabytes, difference)


def _write_graph(model: VlpModel, resolved: ResolvedQueries, path: Path) -> None:
    size = model.recipe.tower.input_size
    whole = _WholeModel(model, resolved).eval()
    squares, vectors = torch.rand(2, size, size), resolved.vectors.float()
    films = torch.export.Dim("films")  # the number of queries is that of the pack
    with warnings.catch_warnings(), _silence(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole,
            (squares, vectors),
            dynamo=True,
            opset_version=_OPSET,
            input_names=["squares", "queries"],
            output_names=["logits", "attention"],
            dynamic_shapes=({0: films}, None),
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter warns of every library that it could have used."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _compare(model: VlpModel, resolved: ResolvedQueries, folder: Path) -> float:
    """Largest difference of a probability between the written graph and torch in float32."""
    size = model.recipe.tower.input_size
    squares = np.random.default_rng(0).uniform(0, 1, size=(_PROBES, size, size)).astype(np.float32)
    exact = replace(model, recipe=replace(model.recipe, tower=replace(model.recipe.tower, precision="fp32")))
    logits = resolved.read(exact.answer(torch.from_numpy(squares), resolved.vectors).logits)
    found = runner.VlpRunner(folder).answer_squares(squares)
    return float(np.abs(found - logits.double().sigmoid().numpy()).max())


def read_pack(folder: Path) -> list[dict[str, object]]:
    """The queries of an exported folder, as in `Query`.

    Raises:
        InputError: if it is not one.
    """
    try:
        content = json.loads((folder / runner.QUERIES_FILE).read_text(encoding="utf-8"))
        found: list[dict[str, object]] = content["queries"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"not an exported model ({error})", folder) from error
    return found
