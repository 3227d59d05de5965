"""Border to torch-geometric: heterogeneous graph data, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch_geometric.data import HeteroData

from kgkit.errors import InputError
from kgkit.views.encode import view_of_rows
from kgkit.views.groups import semantic_group_of
from kgkit.views.triples import TripleView


def to_pyg(view: TripleView, concepts: pl.DataFrame) -> HeteroData:
    """Facts as edges between node types.

    A node type is a semantic group (see `semantic_group_of`); its nodes carry `concept_id`, int64, their rows in the
    view, ascending. An edge type is (group of the head, relation, group of the tail) with `edge_index`, int64 [2, m],
    local to the node types.

    Args:
        view: The facts.
        concepts: The concepts view of the same graph: columns concept and semantic_types, in the view's order.
    """
    groups, code = np.unique(semantic_group_of(concepts["semantic_types"]).to_numpy(), return_inverse=True)
    data = HeteroData()
    local = np.empty(view.num_concepts, dtype=np.int64)
    for index, group in enumerate(groups.tolist()):
        rows = np.flatnonzero(code == index)
        local[rows] = np.arange(len(rows))
        data[group].concept_id = torch.from_numpy(rows)
        data[group].num_nodes = len(rows)
    head, relation, tail = view.triples.T
    kind = (code[head] * view.num_relations + relation) * len(groups) + code[tail]
    order = np.argsort(kind, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(kind[order])) + 1) if len(order) else ():
        first = rows[0]
        key = (groups[code[head[first]]], view.relations[relation[first]], groups[code[tail[first]]])
        data[tuple(map(str, key))].edge_index = torch.from_numpy(np.stack([local[head[rows]], local[tail[rows]]]))
    return data


def from_pyg(data: HeteroData, concepts: Sequence[str], relations: Sequence[str]) -> TripleView:
    """The view of heterogeneous data made by `to_pyg`.

    Args:
        data: Node types with `concept_id`, edge types with `edge_index`.
        concepts: CURIEs; `concept_id` are positions in it.
        relations: Relation names, sorted; the edge types' are among them.
    """
    relation_row = {relation: row for row, relation in enumerate(relations)}
    parts = [np.empty((0, 3), dtype=np.int64)]
    for source, relation, target in data.edge_types:
        head, tail = data[source, relation, target].edge_index
        heads, tails = data[source].concept_id[head].numpy(), data[target].concept_id[tail].numpy()
        parts.append(np.stack([heads, np.full_like(heads, relation_row[relation]), tails], axis=1))
    return view_of_rows(concepts, relations, np.concatenate(parts))


def save_pyg(data: HeteroData, concepts: pl.DataFrame, relations: Sequence[str], folder: Path) -> None:
    """Write heterogeneous data made by `to_pyg` without pickle, for `load_pyg`.

    graph.safetensors   node/<i> (`concept_id`) and edge/<i> (`edge_index`), int64; <i> counts the types
    metadata.json       node_types, edge_types, relations
    concepts.parquet    concept and name, in the order of `concept_id`

    Args:
        data: Node types with `concept_id`, edge types with `edge_index`.
        concepts: The concepts view: columns concept and name.
        relations: Relation names, sorted.
        folder: An existing folder.
    """
    tensors = {f"node/{place}": data[kind].concept_id for place, kind in enumerate(data.node_types)}
    tensors |= {f"edge/{place}": data[kind].edge_index.contiguous() for place, kind in enumerate(data.edge_types)}
    save_file(tensors, folder / "graph.safetensors")
    types = {"node_types": data.node_types, "edge_types": data.edge_types, "relations": list(relations)}
    (folder / "metadata.json").write_text(json.dumps(types, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    concepts.select("concept", "name").write_parquet(folder / "concepts.parquet")


def load_pyg(folder: Path) -> tuple[HeteroData, tuple[str, ...], tuple[str, ...]]:
    """Read what `kgkit export --format pyg` wrote.

    Returns:
        The data, the concepts that `concept_id` points to, the relations: the arguments of `from_pyg`.

    Raises:
        InputError: if the folder is none or incomplete.
    """
    try:
        tensors = load_file(folder / "graph.safetensors")
        types = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        concepts = pl.read_parquet(folder / "concepts.parquet", columns=["concept"])["concept"].to_list()
    except (OSError, ValueError) as error:
        raise InputError(f"not an export of format pyg ({error})", folder) from error
    data = HeteroData()
    for place, kind in enumerate(types["node_types"]):
        data[kind].concept_id = tensors[f"node/{place}"]
        data[kind].num_nodes = len(tensors[f"node/{place}"])
    for place, kind in enumerate(types["edge_types"]):
        data[tuple(kind)].edge_index = tensors[f"edge/{place}"]
    return data, tuple(concepts), tuple(types["relations"])
