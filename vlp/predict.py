"""`vlp predict`: films in, a probability per query out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kgkit.interface import InputError, progress, write_text_atomically
from vlp.artifact import VlpModel, load_model
from vlp.features import load_squares
from vlp.images import find_images
from vlp.queries import ResolvedQueries, resolve_queries
from vlp.types import FindingPrediction

_COLUMNS = ("image", "finding", "concept", "probability", "is_seen", "error")


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """One round of predictions.

    Attributes:
        model_dir: MODEL folder.
        paths: Films (JPEG, PNG, TIFF, DICOM) and folders of films.
        queries: Names, concept ids or free text; empty for the findings the model was trained on.
        encoder_dir: ENCODER for queries the model does not hold; by default where it stood at training.
        out_path: Where to write a table (.csv or .json); None to write nothing.
        all_concepts: With no queries, ask for every concept it was trained on, the broader ones too.
    """

    model_dir: Path
    paths: tuple[Path, ...]
    queries: tuple[str, ...] = ()
    encoder_dir: Path | None = None
    out_path: Path | None = None
    all_concepts: bool = False


@dataclass(frozen=True, slots=True)
class Predictions:
    """What came out.

    Attributes:
        found: One per film and query, films in the order given.
        failed: (film, reason) for the films that could not be read.
    """

    found: tuple[FindingPrediction, ...]
    failed: tuple[tuple[str, str], ...]


def predict(config: PredictConfig) -> Predictions:
    """Answer queries about films.

    Among several films a bad one is reported and the rest go on.

    Raises:
        InputError: if the model is not one, a path is missing, a query cannot be resolved, or no film can be
            read.
    """
    if config.out_path is not None and config.out_path.suffix not in (".csv", ".json"):
        raise InputError(f"cannot write {config.out_path.suffix!r}; expected .csv or .json", config.out_path)
    model = load_model(config.model_dir)
    paths = find_images(list(config.paths))
    resolved = resolve_queries(model, config.queries, config.encoder_dir, findings_only=not config.all_concepts)
    found: list[FindingPrediction] = []
    failed: list[tuple[str, str]] = []
    with progress("predict", len(paths), "films") as bar:
        for path, outcome in probabilities(model, paths, resolved):
            bar.advance()
            if isinstance(outcome, InputError):
                failed.append((str(path), str(outcome).removeprefix(f"{path}: ")))
                continue
            for query, probability in zip(resolved.queries, outcome, strict=True):
                found.append(FindingPrediction(str(path), query.text, query.concept, probability, query.is_seen))
    if not found:
        raise InputError(failed[0][1], failed[0][0])
    predictions = Predictions(tuple(found), tuple(failed))
    if config.out_path is not None:
        write_predictions(predictions, config.out_path)
    return predictions


def probabilities(
    model: VlpModel, paths: Sequence[Path], resolved: ResolvedQueries
) -> Iterator[tuple[Path, list[float] | InputError]]:
    """Probability of each query for each film, or the reason why a film has none; a batch at a time."""
    size, batch_size = model.recipe.tower.input_size, model.recipe.tower.batch_size
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        squares: list[torch.Tensor | InputError] = []
        for path in batch:
            try:
                squares.append(load_squares([path], size)[0])
            except InputError as error:
                squares.append(error)
        readable = [square for square in squares if not isinstance(square, InputError)]
        answers: Iterator[list[float]] = iter(())
        if readable:
            logits = model.answer(torch.stack(readable), resolved.vectors).logits
            answers = iter(logits.float().sigmoid().tolist())
        for path, square in zip(batch, squares, strict=True):
            yield path, square if isinstance(square, InputError) else next(answers)


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write a table, CSV or JSON by the suffix; films that failed stand in it with their reason."""
    rows = [asdict(prediction) | {"error": None} for prediction in predictions.found]
    empty = dict.fromkeys(_COLUMNS)
    rows += [empty | {"image": image, "error": reason} for image, reason in predictions.failed]
    if path.suffix == ".json":
        write_text_atomically(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        return
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, stream.getvalue())
