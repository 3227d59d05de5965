"""The text tower without torch: tokenizers and onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kgkit.errors import InputError

_BATCH = 64


class OnnxTextTower:
    """Texts to unit vectors with `model.onnx` and `tokenizer.json` of an encoder's text folder.

    Raises:
        InputError: if one of the two files is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        for name in ("tokenizer.json", "model.onnx"):
            if not (folder / name).is_file():
                raise InputError("missing; the encoder cannot read text", folder / name)
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise InputError(f"not a readable tokenizer ({error})", folder / "tokenizer.json") from error
        limit = _max_tokens(folder)
        self._tokenizer.enable_truncation(limit)
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own classes, which it does not export
            raise InputError(
                f"not a readable ONNX model ({str(error).splitlines()[0]})", folder / "model.onnx"
            ) from error

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors, float32 [len(texts), dim]; batches are formed by length inside."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        parts = [self._run([rows[i] for i in order[at : at + _BATCH]]) for at in range(0, len(order), _BATCH)]
        if not parts:
            raise InputError("no text to embed")
        vectors = np.concatenate(parts)
        result = np.empty_like(vectors)
        result[order] = vectors
        return result

    def _run(self, rows: list[list[int]]) -> npt.NDArray[np.float32]:
        length = max(2, max(len(row) for row in rows))
        ids = np.zeros((len(rows), length), dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        vectors: npt.NDArray[np.float32] = self._session.run(["vectors"], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors


def _max_tokens(folder: Path) -> int:
    import json

    path = folder / "sentence_bert_config.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["max_seq_length"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"damaged or missing ({error})", path) from error
