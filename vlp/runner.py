"""Run an exported model: `python runner.py FILM...`, with onnxruntime, numpy and Pillow alone.

`vlp export` copies this file beside the graph, so it imports nothing of vlp. It reads JPEG, PNG and TIFF; for DICOM
read the grey values yourself (or with `vlp.images.load_image`) and give them to `VlpRunner.answer`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

MODEL_FILE, QUERIES_FILE, VECTORS_FILE = "model.onnx", "queries.json", "queries.npy"
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
_CLIPPED = 0.001

FloatArray = npt.NDArray[np.float32]


class VlpRunner:
    """An exported model, opened.

    Args:
        folder: Made by `vlp export`.
        threads: Threads within one operation; 0 for as many as there are cores.

    Attributes:
        queries: What it answers, in order: text, concept, is_text_encoded, is_seen.
        vectors: float32 [Q, E], their vectors.
        input_size: Side of the square a film is fitted into, pixels.
    """

    def __init__(self, folder: Path | str, threads: int = 0) -> None:
        folder = Path(folder)
        content = json.loads((folder / QUERIES_FILE).read_text(encoding="utf-8"))
        self.queries: list[dict[str, Any]] = content["queries"]
        self.input_size: int = content["input_size"]
        self.vectors: FloatArray = np.load(folder / VECTORS_FILE, allow_pickle=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(folder / MODEL_FILE), options, providers=providers)

    def answer(self, film: FloatArray) -> npt.NDArray[np.float64]:
        """Probability of each query about one film: float32 [H, W] grey 0..1 to float64 [Q]."""
        found: npt.NDArray[np.float64] = self.answer_squares(fit_square(film, self.input_size)[None])[0]
        return found

    def answer_file(self, path: Path | str) -> npt.NDArray[np.float64]:
        """Probability of each query about a JPEG, PNG or TIFF: float64 [Q]."""
        return self.answer(read_film(path))

    def answer_squares(self, squares: FloatArray) -> npt.NDArray[np.float64]:
        """Probabilities for films fitted into squares: float32 [B, S, S] to float64 [B, Q]."""
        return _sigmoid(self._run(squares)[0])

    def attention(self, film: FloatArray) -> FloatArray:
        """Attention of each query over the patches of one film: float32 [H, W] to float32 [Q, Hp, Wp], sum 1."""
        found: FloatArray = self._run(fit_square(film, self.input_size)[None])[1][0]
        return found

    def _run(self, squares: FloatArray) -> list[Any]:
        inputs = {"squares": np.ascontiguousarray(squares, dtype=np.float32), "queries": self.vectors}
        found: list[Any] = self._session.run(["logits", "attention"], inputs)
        return found


def read_film(path: Path | str) -> FloatArray:
    """A film, float32 [H, W] in 0..1; deeper than 8 bit is stretched between its 0.1 and 99.9 percentiles."""
    with Image.open(path) as image:
        if image.mode not in _DEEP_MODES:
            return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
        pixels = np.asarray(image, dtype=np.float32)
    ordered = np.sort(pixels.ravel())
    rank = int(_CLIPPED * ordered.size)
    low, high = float(ordered[rank]), float(ordered[ordered.size - 1 - rank])
    if high <= low:
        low, high = float(ordered[0]), float(ordered[-1])
    if high <= low:
        return np.zeros(pixels.shape, dtype=np.float32)
    scaled: FloatArray = np.clip((pixels - np.float32(low)) / np.float32(high - low), 0, 1)
    return scaled


def fit_square(film: FloatArray, side: int) -> FloatArray:
    """A film scaled by its longer side and padded with black: float32 [H, W] to float32 [side, side]."""
    factor = side / max(film.shape)
    height, width = (max(1, round(length * factor)) for length in film.shape)
    if film.shape != (height, width):
        film = np.asarray(Image.fromarray(film).resize((width, height), Image.Resampling.BILINEAR))
    square = np.zeros((side, side), dtype=np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = film
    return square


def main(arguments: Sequence[str]) -> None:
    """Print the likeliest ten answers about each film; one that cannot be read, or is blank, is named and left out."""
    runner, answered = VlpRunner(Path(__file__).parent), 0
    for path in arguments:
        try:
            film = read_film(path)
            if film.min() == film.max():
                raise ValueError("blank film (every pixel is the same)")
        except (OSError, ValueError) as error:
            sys.stderr.write(f"{path}: {error}\n")
            continue
        values = runner.answer(film)
        answered += 1
        sys.stdout.write(f"{path}\n")
        for row in np.argsort(-values)[:10]:
            sys.stdout.write(f"  {values[row]:.3f}  {runner.queries[row]['text']}\n")
    sys.exit(0 if answered else 1)


def _sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
