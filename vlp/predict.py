"""`vlp predict`: films in, a probability per query out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from kgkit.interface import DoubleArray, FloatArray, InputError, progress, write_text_atomically
from vlp.artifact import VlpModel, load_model
from vlp.denial import ResolvedQueries
from vlp.evaluation.calibration import CALIBRATION_FILE, Calibration, load_calibration, query_key
from vlp.features import patch_features
from vlp.folded import asker
from vlp.grounding import ground_film, save_overlay
from vlp.images import BLANK, ResizePad, find_images, is_blank, load_image
from vlp.input_check import InputCheck, load_input_check, refused_by_distance, refused_by_pixels
from vlp.model import QueryOutput
from vlp.queries import resolve_queries
from vlp.types import FindingPrediction

Film = TypeVar("Film")
Square = torch.Tensor | InputError
Ask = Callable[[torch.Tensor], QueryOutput]
_BATCHES_AHEAD = 2
_MAX_READERS = 4
_COLUMNS = ("image", "finding", "concept", "probability", "calibrated", "is_seen", "abstained", "error")


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
        check_input: Abstain, with a reason, from what is not a frontal chest film.
        overlay_dir: Folder for heat maps over the films; None to draw none.
        overlays_per_film: How many findings are drawn per film, the most probable first.
        calibration: calibration.json of an evaluation; by default the one kept with the model, if any.
    """

    model_dir: Path
    paths: tuple[Path, ...]
    queries: tuple[str, ...] = ()
    encoder_dir: Path | None = None
    out_path: Path | None = None
    all_concepts: bool = False
    check_input: bool = False
    overlay_dir: Path | None = None
    overlays_per_film: int = 1
    calibration: Path | None = None


@dataclass(frozen=True, slots=True)
class Predictions:
    """What came out.

    Attributes:
        found: One per film and query, films in the order given.
        failed: (film, reason) for the films that could not be read.
        abstained: (film, reason) for what is not a frontal chest film, where that was to be checked.
        calibrated: Calibrated probability of each in `found`; None where the query has no calibration.
        overlays: Pictures that were drawn.
    """

    found: tuple[FindingPrediction, ...]
    failed: tuple[tuple[str, str], ...]
    abstained: tuple[tuple[str, str], ...] = ()
    calibrated: tuple[float | None, ...] = ()
    overlays: tuple[Path, ...] = ()


def predict(config: PredictConfig) -> Predictions:
    """Answer queries about films.

    Among several films a bad one is reported and the rest go on.

    Raises:
        InputError: if the model is not one, a path is missing, a query cannot be resolved, an input check is asked for
            and the model has none, or no film can be read.
    """
    if config.out_path is not None and config.out_path.suffix not in (".csv", ".json"):
        raise InputError(f"cannot write {config.out_path.suffix!r}; expected .csv or .json", config.out_path)
    model = load_model(config.model_dir)
    check = load_input_check(config.model_dir) if config.check_input else None
    kept_calibration = config.calibration or config.model_dir / CALIBRATION_FILE
    calibration = load_calibration(kept_calibration) if config.calibration or kept_calibration.is_file() else None
    paths = find_images(list(config.paths))
    resolved = resolve_queries(model, config.queries, config.encoder_dir, findings_only=not config.all_concepts)
    found: list[FindingPrediction] = []
    failed: list[tuple[str, str]] = []
    abstained: list[tuple[str, str]] = []
    films = _FilmFiles(check)
    with progress("predict", len(paths), "films") as bar:
        for path, outcome in answers(model, paths, films.square, resolved):
            bar.advance()
            if isinstance(outcome, InputError):
                failed.append((str(path), str(outcome).removeprefix(f"{path}: ")))
                continue
            reason = films.why_abstain(path, outcome)
            if reason is not None:
                abstained.append((str(path), reason))
                continue
            for query, probability in zip(resolved.queries, outcome.probabilities.tolist(), strict=True):
                found.append(FindingPrediction(str(path), query.text, query.concept, probability, query.is_seen))
    if not found and not abstained:
        raise InputError(failed[0][1], failed[0][0])
    calibrated = tuple(_calibrate(prediction, calibration) for prediction in found)
    overlays = _draw_overlays(model, found, resolved, config) if config.overlay_dir is not None else ()
    predictions = Predictions(tuple(found), tuple(failed), tuple(abstained), calibrated, overlays)
    if config.out_path is not None:
        write_predictions(predictions, config.out_path)
    return predictions


class _FilmFiles:
    """Films read from files, each once; what its pixels say against it is kept until it is asked for."""

    def __init__(self, check: InputCheck | None) -> None:
        self.check = check
        self._refused: dict[Path, str | None] = {}

    def square(self, path: Path, size: int) -> torch.Tensor:
        """A film fitted into a square: float32 [size, size]; called from several threads."""
        film = load_image(path)
        if self.check is not None:
            self._refused[path] = refused_by_pixels(path, film)
        elif is_blank(film):
            raise InputError(BLANK, path)
        height, width = film.shape
        return torch.from_numpy(ResizePad((height, width), size).apply(film))

    def why_abstain(self, path: Path, answer: FilmAnswer) -> str | None:
        """Why a film that was read is not answered; None if it passes for a frontal chest film."""
        if self.check is None:
            return None
        return self._refused[path] or refused_by_distance(float(self.check.distances(answer.features[None])[0]))


@dataclass(frozen=True, slots=True)
class FilmAnswer:
    """What a model says of one film.

    Attributes:
        probabilities: float64 [Q], 0..1, in the order of the queries.
        embedding: float32 [J], the film in the joint space of films and reports, unit norm.
        features: float16 [Hp, Wp, D], its patch features.
    """

    probabilities: DoubleArray
    embedding: FloatArray
    features: npt.NDArray[np.float16]


def answers(
    model: VlpModel, films: Sequence[Film], square: Callable[[Film, int], torch.Tensor], resolved: ResolvedQueries
) -> Iterator[tuple[Film, FilmAnswer | InputError]]:
    """What the model says of each film, or the reason why it says nothing; a batch at a time, in the order given.

    The next films are read while the model looks at these, so a slow disk or a large DICOM costs little.

    Args:
        model: Asked.
        films: Paths, or rows of a DATA folder.
        square: Reads one as float32 [S, S], grey 0..1, S being its second argument; called from several threads.
        resolved: The queries.
    """
    size, batch_size = model.recipe.tower.input_size, model.recipe.tower.batch_size
    batches = [films[start : start + batch_size] for start in range(0, len(films), batch_size)]
    pending: deque[list[Future[Square]]] = deque()
    ask = _asker(model, resolved)
    readers = ThreadPoolExecutor(min(_MAX_READERS, os.cpu_count() or 1), "films")

    def read(film: Film) -> Square:
        try:
            return square(film, size)
        except InputError as error:
            return error

    try:
        for position, batch in enumerate(batches):
            for ahead in batches[position + len(pending) : position + _BATCHES_AHEAD + 1]:
                pending.append([readers.submit(read, film) for film in ahead])
            squares = [future.result() for future in pending.popleft()]
            readable = [square for square in squares if isinstance(square, torch.Tensor)]
            found = iter(_answer(model, torch.stack(readable), ask) if readable else [])
            for film, seen in zip(batch, squares, strict=True):
                yield film, seen if isinstance(seen, InputError) else _checked(next(found))
    finally:  # also when the caller stops in the middle
        readers.shutdown(wait=False, cancel_futures=True)


def answer_squares(model: VlpModel, squares: torch.Tensor, resolved: ResolvedQueries) -> list[FilmAnswer]:
    """As `answers`, for films already fitted into squares: float32 [B, S, S], grey 0..1."""
    return _answer(model, squares, _asker(model, resolved))


def _asker(model: VlpModel, resolved: ResolvedQueries) -> Ask:
    grid = (model.patches.rows, model.patches.columns)
    ask = asker(model.network, resolved.vectors, grid, model.recipe.tower.precision)

    def ask_and_read(features: torch.Tensor) -> QueryOutput:
        output = ask(features)
        return output._replace(logits=resolved.read(output.logits))

    return ask_and_read


def _answer(model: VlpModel, squares: torch.Tensor, ask: Ask) -> list[FilmAnswer]:
    features = patch_features(model.tower, squares, model.recipe.tower)
    with torch.inference_mode():
        output = ask(features)
    columns = (output.logits.double().sigmoid(), output.embedding.float(), features)
    rows = zip(*(column.cpu().numpy() for column in columns), strict=True)
    return [FilmAnswer(*row) for row in rows]


def _checked(answer: FilmAnswer) -> FilmAnswer | InputError:
    if np.isfinite(answer.probabilities).all():
        return answer
    return InputError("the model's answer is not a number")


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write a table, CSV or JSON by the suffix; films that failed or were not answered stand in it with the reason."""
    empty = dict.fromkeys(_COLUMNS)
    calibrated = predictions.calibrated or (None,) * len(predictions.found)
    rows = [
        empty | asdict(prediction) | {"calibrated": value}
        for prediction, value in zip(predictions.found, calibrated, strict=True)
    ]
    rows += [empty | {"image": image, "abstained": reason} for image, reason in predictions.abstained]
    rows += [empty | {"image": image, "error": reason} for image, reason in predictions.failed]
    if path.suffix == ".json":
        write_text_atomically(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        return
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, stream.getvalue())


def _calibrate(prediction: FindingPrediction, calibration: Calibration | None) -> float | None:
    key = query_key(prediction.concept, prediction.finding)
    read = calibration.findings.get(key) if calibration is not None else None
    return None if read is None else float(read.apply(prediction.probability))


def _draw_overlays(
    model: VlpModel, found: Sequence[FindingPrediction], resolved: ResolvedQueries, config: PredictConfig
) -> tuple[Path, ...]:
    """The most probable findings of each film, each drawn over it."""
    assert config.overlay_dir is not None
    of_film: dict[str, list[int]] = {}
    for position, prediction in enumerate(found):
        of_film.setdefault(prediction.image, []).append(position)
    drawn: list[Path] = []
    for image, positions in of_film.items():
        ranked = sorted(range(len(resolved.queries)), key=lambda row: -found[positions[row]].probability)
        rows = ranked[: config.overlays_per_film]
        film = load_image(Path(image))
        for grounding in ground_film(model, film, resolved.only(rows)):
            words = re.sub(r"[^a-z0-9]+", "-", grounding.query.text.casefold()).strip("-")[:40]
            path = _free_path(config.overlay_dir, f"{Path(image).stem}-{words or 'query'}", drawn)
            save_overlay(film, grounding, path)
            drawn.append(path)
    return tuple(drawn)


def _free_path(folder: Path, stem: str, taken: Sequence[Path]) -> Path:
    """A PNG in a folder that this run has not written yet."""
    path, number = folder / f"{stem}.png", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path
