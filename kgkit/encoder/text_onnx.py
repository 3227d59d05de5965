"""The text tower without torch: tokenizers and onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kgkit.arrays import FloatArray, IntArray
from kgkit.encoder.batching import TokenRows, plan_batches
from kgkit.errors import InputError


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
        self._max_tokens = _max_tokens(folder)
        self._tokenizer.no_padding()
        self._pad = _pad_id(folder, self._tokenizer)
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

    def embed(self, texts: Sequence[str], max_tokens: int | None = None) -> FloatArray:
        """Unit vectors, float32 [len(texts), dim]; batches are formed by length inside.

        Args:
            texts: At least one.
            max_tokens: Tokens that are read of each; by default as the folder says.
        """
        if not len(texts):
            raise InputError("no text to embed")
        self._tokenizer.enable_truncation(max_tokens or self._max_tokens)
        # A tokenizer without special tokens makes nothing of an empty text, and nothing has no mean.
        rows = TokenRows.of([encoding.ids or [self._pad] for encoding in self._tokenizer.encode_batch(list(texts))])
        plan = plan_batches(rows.lengths)
        vectors = np.concatenate([self._run(*rows.padded(batch, self._pad)) for batch in plan])
        result = np.empty_like(vectors)
        result[np.concatenate(plan)] = vectors
        return result

    def _run(self, ids: IntArray, mask: IntArray) -> FloatArray:
        if ids.shape[1] < 2:  # the exported graph was made for two tokens and more
            ids = np.pad(ids, ((0, 0), (0, 1)), constant_values=self._pad)
            mask = np.pad(mask, ((0, 0), (0, 1)))
        vectors: FloatArray = self._session.run(["vectors"], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors


def _pad_id(folder: Path, tokenizer: Any) -> int:
    """The tokenizer's own pad id; 0 where it names none, which the mask hides anyway."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return 0
    try:
        token = json.loads(path.read_text(encoding="utf-8")).get("pad_token")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"damaged ({error})", path) from error
    if isinstance(token, dict):
        token = token.get("content")
    return int(tokenizer.token_to_id(token) or 0) if isinstance(token, str) else 0


def _max_tokens(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["max_seq_length"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"damaged or missing ({error})", path) from error
