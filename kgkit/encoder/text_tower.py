"""The text tower: any transformers encoder, pooled to unit vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from kgkit.arrays import IntArray
from kgkit.encoder.batching import TokenRows, equal_rows, plan_batches
from kgkit.encoder.config import TextConfig
from kgkit.encoder.weights import text_weights
from kgkit.errors import InputError
from kgkit.progress import progress

_LAYERS = ("encoder.layer", "transformer.layer", "encoder.layers", "layers")
"""Where transformers' encoders keep their layers."""


class TextTower(nn.Module):
    """Texts to unit vectors.

    Args:
        config: Which weights, pooling, head, lengths.

    Raises:
        InputError: if the weights cannot be read, are no encoder's, or lack what the recipe asks for.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.tokenizer, self.transformer, missing = _read(config.model)
        self.config = config
        self.dim = int(self.transformer.config.hidden_size)
        if config.pooling == "pooler":
            _require_pooler(config.model, self.transformer, missing)
        self.head = _mlp(self.dim) if config.head == "mlp" else None
        self._freeze(config.frozen_layers)
        for module in self.transformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout
            elif isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = config.dropout  # some keep the bare number

    @torch.no_grad()
    def blend_with_base(self, share: float) -> None:
        """Mix weights as they came into the trained ones: (1 - share) x trained + share x base, in place.

        What training on names took from the encoder, such as its sense for texts that no vocabulary has, comes back at
        little cost (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").
        """
        _, base, _ = _read(self.config.model)
        for own, came in zip(self.transformer.parameters(), base.parameters(), strict=True):
            own.lerp_(came.to(own), share)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids the transformer knows."""
        return int(self.transformer.config.vocab_size)

    @property
    def max_positions(self) -> int:
        """Tokens that the transformer reads at most."""
        positions = int(getattr(self.transformer.config, "max_position_embeddings", None) or 2**30)
        table = getattr(getattr(self.transformer, "embeddings", None), "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            positions = table.num_embeddings - table.padding_idx - 1  # RoBERTa counts from after its pad id
        return positions

    @property
    def tokenizer_digest(self) -> str:
        """Hex digest of all that decides how a text is cut into tokens."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            content = {"class": type(self.tokenizer).__name__, "vocabulary": self.tokenizer.get_vocab()}
        else:  # the last call's truncation is in there, too, and must not count
            content = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit vectors.

        Args:
            input_ids: int64 [B, T].
            attention_mask: int64 [B, T], 1 at tokens.

        Returns:
            float32 [B, dim].
        """
        return self._pooled(self.transformer(input_ids=input_ids, attention_mask=attention_mask), attention_mask)

    def _pooled(self, output: Any, attention_mask: Tensor) -> Tensor:
        if self.config.pooling == "pooler":
            pooled = output.pooler_output
        elif self.config.pooling == "cls":
            pooled = output.last_hidden_state[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(torch.float32)
            pooled = (output.last_hidden_state.float() * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        if self.head is not None:
            pooled = self.head(pooled)
        return F.normalize(pooled.float(), dim=-1)

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text, special tokens included, at least one, cut to `max_tokens` or what the model reads.

        Args:
            texts: Any strings; an empty one has its special tokens alone.
            max_tokens: Tokens kept of each.
        """
        if not texts:
            return []
        limit = min(max_tokens, self.max_positions)
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=limit, add_special_tokens=True, return_attention_mask=False,
            return_token_type_ids=False,
        )  # fmt: skip
        # A tokenizer without special tokens makes nothing of an empty text, and nothing has no mean.
        return [list(ids) or [self._pad] for ids in encoded["input_ids"]]

    def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors of tokenised texts, in their order; batches are formed by length inside.

        Returns:
            float32 [len(tokens), dim]; gradients flow if they are enabled.
        """
        if not len(tokens):
            return torch.empty(0, self.dim)
        rows = TokenRows.of(tokens)
        plan = plan_batches(rows.lengths)
        words = self.transformer.get_input_embeddings()
        if torch.is_grad_enabled() and words.weight.requires_grad:
            parts = self._embed_with_one_table(rows, plan, words)
        else:
            parts = [self(*self._padded(rows, batch)) for batch in plan]
        back = torch.from_numpy(np.argsort(np.concatenate(plan)))
        return torch.cat(parts)[back.to(parts[0].device)]

    @torch.no_grad()
    def encode_all(
        self, tokens: Sequence[Sequence[int]], autocast: Callable[[], AbstractContextManager[Any]], description: str
    ) -> Tensor:
        """Unit vectors of many texts without gradients, with progress; equal rows of tokens are read once.

        Args:
            tokens: Tokenised texts; of millions, give `TokenRows`, which are not copied.
            autocast: Context in which the transformer runs.
            description: Of the progress.

        Returns:
            float32 [len(tokens), dim] on the CPU.
        """
        rows = TokenRows.of(tokens)
        order, starts = equal_rows(rows)
        ends = np.append(starts[1:], len(order))
        firsts = order[starts]
        vectors = torch.empty(len(rows), self.dim)
        was_training = self.training
        self.eval()
        # The context is opened once: it keeps the weights it has cast until it is closed.
        with progress(description, len(rows), "texts") as report, autocast():
            for batch in reversed(plan_batches(rows.lengths[firsts])):  # the longest first: no late surprise
                read = self(*self._padded(rows, firsts[batch])).float().cpu()
                copies = ends[batch] - starts[batch]
                places = np.concatenate([order[starts[group] : ends[group]] for group in batch])
                vectors[torch.from_numpy(places)] = read.repeat_interleave(torch.from_numpy(copies), dim=0)
                report.advance(len(places))
        self.train(was_training)
        return vectors

    def save(self, folder: Path) -> None:
        """Write the tower in the layout of sentence-transformers, whose encode then gives the same vectors."""
        self.transformer.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        limit = min(max(self.config.max_name_tokens, self.config.max_definition_tokens), self.max_positions)
        _write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
        mode = "mean" if self.config.pooling == "mean" else "cls"
        # The flag beside the mode is what versions before 5 read.
        pooling = {"word_embedding_dimension": self.dim, "pooling_mode": mode, "include_prompt": True}
        pooling |= {"pooling_mode_cls_token": mode == "cls", "pooling_mode_mean_tokens": mode == "mean"}
        modules: list[tuple[str, str]] = [("", "Transformer"), ("1_Pooling", "Pooling")]
        _write_json(folder / "1_Pooling" / "config.json", pooling)
        for linear, activation in self._dense_layers():
            path = f"{len(modules)}_Dense"
            _save_dense(folder / path, linear, activation)
            modules.append((path, "Dense"))
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir(exist_ok=True)
        listed = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                  for i, (path, kind) in enumerate(modules)]  # fmt: skip
        _write_json(folder / "modules.json", listed)

    @property
    def _pad(self) -> int:
        return int(self.tokenizer.pad_token_id)  # `_read` sees to it that there is one

    def _padded(self, rows: TokenRows, batch: IntArray) -> tuple[Tensor, Tensor]:
        device = next(self.transformer.parameters()).device
        input_ids, mask = rows.padded(batch, self._pad)
        return torch.from_numpy(input_ids).to(device), torch.from_numpy(mask).to(device)

    def _embed_with_one_table(self, rows: TokenRows, plan: list[IntArray], words: nn.Module) -> list[Tensor]:
        """Vectors of each batch, the word vectors looked up once for all of them.

        The gradient of a look-up is as large as the vocabulary's table, so one look-up per batch would cost a tenth
        of the step.
        """
        vocabulary, local = np.unique(np.append(rows.flat, self._pad), return_inverse=True)
        device = next(self.transformer.parameters()).device
        table = words(torch.from_numpy(vocabulary).to(device))
        rows = TokenRows(local[:-1].astype(np.int32), rows.offsets)
        parts = []
        for batch in plan:
            ids, mask = (torch.from_numpy(part).to(device) for part in rows.padded(batch, int(local[-1])))
            parts.append(
                self._pooled(self.transformer(inputs_embeds=F.embedding(ids, table), attention_mask=mask), mask)
            )
        return parts

    def _dense_layers(self) -> list[tuple[nn.Linear, nn.Module]]:
        """What follows the pooling, as linear layers with an activation: BERT's pooler is one on the first token."""
        layers: list[tuple[nn.Linear, nn.Module]] = []
        if self.config.pooling == "pooler":
            layers.append((_pooler_layer(self.transformer), nn.Tanh()))  # type: ignore[arg-type]  # checked at the start
        if self.head is not None:
            first, last = self.head[0], self.head[2]
            assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)  # noqa: PT018
            layers += [(first, nn.GELU()), (last, nn.Identity())]
        return layers

    def _freeze(self, num_layers: int) -> None:
        if num_layers <= 0:
            return
        what = f"recipe key 'text.frozen_layers' is {num_layers}: {self.config.model!r}"
        layers = next((found for path in _LAYERS if (found := _part(self.transformer, path)) is not None), None)
        if layers is None:
            raise InputError(f"{what} has no list of layers to freeze; set 0")
        if num_layers > len(layers):
            raise InputError(f"{what} has {len(layers)} layers")
        for module in (self.transformer.embeddings, *layers[:num_layers]):
            module.requires_grad_(requires_grad=False)


def _read(model: str) -> tuple[PreTrainedTokenizerBase, Any, set[str]]:
    """Tokenizer, transformer, and the names of the weights that the checkpoint does not have."""
    source = text_weights(model)
    # On a CPU, in bf16, the fused attention's backward pass takes a quarter of a step, the plain one's next to nothing.
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
        transformer, info = AutoModel.from_pretrained(source, attn_implementation=attention, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot read text weights {model!r} ({str(error).splitlines()[0]})") from error
    if transformer.config.is_encoder_decoder:
        raise InputError(f"recipe key 'text.model': {model!r} is an encoder with a decoder; expected an encoder alone")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:  # any token will do, since the mask hides it
        named = (tokenizer.sep_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.convert_ids_to_tokens(0))
        tokenizer.pad_token = next(token for token in named if token is not None)
    return tokenizer, transformer, set(info["missing_keys"])


def _part(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module if isinstance(module, nn.ModuleList) else None


def _pooler_layer(transformer: Any) -> nn.Linear | None:
    """The linear layer of a pooler of BERT's kind: tanh of it on the first token; None for any other or none."""
    pooler = getattr(transformer, "pooler", None)
    layer = getattr(pooler, "dense", pooler)  # ALBERT's pooler is the bare layer
    activation = getattr(pooler, "activation", getattr(transformer, "pooler_activation", None))
    return layer if isinstance(layer, nn.Linear) and isinstance(activation, nn.Tanh) else None


def _require_pooler(model: str, transformer: Any, missing: set[str]) -> None:
    absent = any(name.startswith("pooler.") for name in missing)  # transformers would start it at random
    if absent or _pooler_layer(transformer) is None:
        problem = f"{model!r} has no trained pooler; expected 'mean' or 'cls'"
        raise InputError(f"recipe key 'text.pooling' is 'pooler', but {problem}")


def _mlp(dim: int) -> nn.Sequential:
    """KAD's head (Zhang et al. 2023): two layers, weights drawn from N(0, 1 / dim)."""
    head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
    for layer in (head[0], head[2]):
        nn.init.normal_(layer.weight, std=dim**-0.5)  # type: ignore[arg-type]
    return head


def _save_dense(folder: Path, linear: nn.Linear, activation: nn.Module) -> None:
    kind = type(activation)
    config = {"in_features": linear.in_features, "out_features": linear.out_features, "bias": True,
              "activation_function": f"{kind.__module__}.{kind.__name__}"}  # fmt: skip
    _write_json(folder / "config.json", config)
    state = {f"linear.{name}": value.detach().contiguous().cpu() for name, value in linear.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def export_onnx(tower: TextTower, path: Path) -> None:
    """Write the tower as ONNX (inputs input_ids, attention_mask; output vectors), so that serving needs no torch."""
    import contextlib
    import io
    import logging
    import warnings

    tower.eval()
    ids = torch.arange(16).reshape(2, 8) % tower.vocabulary_size
    longest = min(512, tower.max_positions)
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=longest)
    shapes = {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            tower, (ids, torch.ones_like(ids)), str(path), input_names=["input_ids", "attention_mask"],
            output_names=["vectors"], dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
