"""The text tower: any transformers encoder, pooled to unit vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from kgkit.encoder.config import TextConfig
from kgkit.encoder.weights import text_weights
from kgkit.errors import InputError
from kgkit.progress import progress

_ENCODE_BATCH = 128


class TextTower(nn.Module):
    """Texts to unit vectors.

    Args:
        config: Which weights, pooling, lengths.

    Raises:
        InputError: if the weights cannot be read.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        source = text_weights(config.model)
        try:
            self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
            self.transformer = AutoModel.from_pretrained(source, attn_implementation="sdpa")
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"cannot read text weights {config.model!r} ({str(error).splitlines()[0]})") from error
        self.config = config
        self.dim = int(self.transformer.config.hidden_size)
        self._freeze(config.frozen_layers)
        for module in self.transformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the transformer knows."""
        return int(self.transformer.config.vocab_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit vectors.

        Args:
            input_ids: int64 [B, T].
            attention_mask: int64 [B, T], 1 at tokens.

        Returns:
            float32 [B, dim].
        """
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.pooling == "cls":
            pooled = hidden[:, 0].float()
        else:
            mask = attention_mask.unsqueeze(-1).to(torch.float32)
            pooled = (hidden.float() * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return F.normalize(pooled, dim=-1)

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to `max_tokens`."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), truncation=True, max_length=max_tokens, add_special_tokens=True)
        return [list(ids) for ids in encoded["input_ids"]]

    def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors of tokenised texts, in their order; batches are formed by length inside.

        Returns:
            float32 [len(tokens), dim]; gradients flow if they are enabled.
        """
        if not tokens:
            return torch.empty(0, self.dim)
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        parts = [
            self(*self._padded([tokens[i] for i in order[at : at + _ENCODE_BATCH]]))
            for at in range(0, len(order), _ENCODE_BATCH)
        ]
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[back.to(parts[0].device)]

    @torch.no_grad()
    def encode_all(self, tokens: Sequence[Sequence[int]], autocast: Any, description: str) -> Tensor:
        """Unit vectors of many texts without gradients, with progress; float32 [len(tokens), dim] on the CPU."""
        was_training = self.training
        self.eval()
        distinct = sorted({tuple(row) for row in tokens}, key=lambda row: (len(row), row))  # many differ in case alone
        vectors = torch.empty(len(distinct), self.dim)
        with progress(description, len(distinct), "texts") as report:
            for at in range(0, len(distinct), _ENCODE_BATCH):
                rows = distinct[at : at + _ENCODE_BATCH]
                with autocast():
                    vectors[at : at + len(rows)] = self(*self._padded(rows)).float().cpu()
                report.advance(len(rows))
        self.train(was_training)
        place = {row: index for index, row in enumerate(distinct)}
        return vectors[[place[tuple(row)] for row in tokens]]

    def save(self, folder: Path) -> None:
        """Write the tower in the layout of sentence-transformers."""
        self.transformer.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / "1_Pooling").mkdir(exist_ok=True)
        pooling = {"word_embedding_dimension": self.dim, "pooling_mode_cls_token": self.config.pooling == "cls",
                   "pooling_mode_mean_tokens": self.config.pooling == "mean"}  # fmt: skip
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        listed = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                  for i, (path, kind) in enumerate(modules)]  # fmt: skip
        (folder / "2_Normalize").mkdir(exist_ok=True)
        for name, content in (
            ("1_Pooling/config.json", pooling),
            ("modules.json", listed),
            (
                "sentence_bert_config.json",
                {"max_seq_length": self.config.max_definition_tokens, "do_lower_case": False},
            ),
        ):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _padded(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        device = next(self.transformer.parameters()).device
        ids = [torch.tensor(row) for row in tokens]
        pad = int(self.tokenizer.pad_token_id or 0)
        input_ids = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad)
        lengths = torch.tensor([len(row) for row in tokens])
        mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        return input_ids.to(device), mask.to(device)

    def _freeze(self, num_layers: int) -> None:
        if num_layers <= 0:
            return
        layers = getattr(getattr(self.transformer, "encoder", None), "layer", None)
        if layers is None:
            raise InputError(
                f"recipe key 'text.frozen_layers': {self.config.model!r} has no encoder.layer to freeze; set 0"
            )
        for module in (self.transformer.embeddings, *layers[:num_layers]):
            module.requires_grad_(requires_grad=False)


def export_onnx(tower: TextTower, path: Path) -> None:
    """Write the tower as ONNX (inputs input_ids, attention_mask; output vectors), so that serving needs no torch."""
    import contextlib
    import io
    import logging
    import warnings

    tower.eval()
    ids = torch.arange(16).reshape(2, 8) % tower.vocabulary_size
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=512)
    shapes = {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            tower, (ids, torch.ones_like(ids)), str(path), input_names=["input_ids", "attention_mask"],
            output_names=["vectors"], dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
