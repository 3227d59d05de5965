"""Concept search against FAISS alone and hnswlib: queries per second, recall@10, memory, build time, in one run.

    python benchmarks/search.py ENCODER [--rows 500000] [--threads 1] [--queries 1000] [--json FILE]

Two sets of vectors, never random ones: every name vector of ENCODER; and `--rows` text-like ones, each the mean of word
vectors of a name put together from the words of ENCODER's names as often as they occur there (a word's vector is the
mean of the name vectors that have it). Queries are vectors of the same kind that are not in the index. Truth is the
exact scan: a row is one of the ten nearest if it is as near as the tenth, since equal names have equal vectors. Every
method runs in a process of its own with the same number of threads; memory is what that process grows by between start
and the end of the searches. `ours` answers with concepts, exact scores, names and semantic types, the others with row
numbers; each row is a concept of its own here. hnswlib is no dependency of the library: pip install hnswlib (it has no
wheels for some platforms and then needs a C++ compiler).

Also timed on ENCODER itself, if it has an index: `kgkit search`, as a process, against importing torch and
transformers; and hybrid, dense and lexical queries per second.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("ours-auto", "ours-flat", "ours-hnsw", "faiss-flat", "faiss-hnsw", "hnswlib")
SINGLE = 200
EF = (32, 64, 128, 256)


def text_like(encoder: Path, count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, dim]: means of word vectors of made-up names."""
    from kgkit.encoder.artifact import load_encoder
    from kgkit.search.folding import fold

    opened = load_encoder(encoder)
    table = opened.names.drop_nulls("vector").unique("vector", maintain_order=True)
    words: dict[str, int] = {}
    owners, rows, lengths = [], [], []
    for name, row in zip(table["name"].to_list(), table["vector"].to_list(), strict=True):
        found = fold(name).split()
        lengths.append(len(found))
        for word in found:
            owners.append(words.setdefault(word, len(words)))
            rows.append(row)
    sums = np.zeros((len(words), opened.dim), dtype=np.float32)
    np.add.at(sums, owners, opened.name_vectors[rows])
    counts = np.bincount(owners)
    vectors = sums / counts[:, None]
    generator = np.random.default_rng(seed)
    made = np.empty((count, opened.dim), dtype=np.float32)
    sizes = generator.choice(np.array([length for length in lengths if length]), size=count)
    drawn = generator.choice(len(words), size=int(sizes.sum()), p=counts / counts.sum())
    stops = np.cumsum(sizes)
    for start in range(0, count, 10_000):
        stop = min(start + 10_000, count)
        first = stops[start] - sizes[start]
        parts = vectors[drawn[first : stops[stop - 1]]]
        made[start:stop] = np.add.reduceat(parts, stops[start:stop] - sizes[start:stop] - first, axis=0)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def write_rows(folder: Path, vectors: np.ndarray) -> Path:
    """An ENCODER folder whose concepts are the rows, without names and text tower."""
    import polars as pl
    from safetensors.numpy import save_file

    from kgkit.encoder.artifact import CONCEPT_COLUMNS, NAME_COLUMNS
    from kgkit.encoder.integrity import describe_parts, encoder_digest
    from kgkit.files import write_manifest

    folder.mkdir()
    count = len(vectors)
    ids = [f"row:{row:08d}" for row in range(count)]
    columns = (ids, ids, [["T047"]] * count, [None] * count, [[]] * count, [[]] * count)
    pl.DataFrame(dict(zip(CONCEPT_COLUMNS, columns, strict=True)), schema=CONCEPT_COLUMNS).write_parquet(
        folder / "concepts.parquet"
    )
    pl.DataFrame(schema=NAME_COLUMNS).write_parquet(folder / "names.parquet")
    empty = np.zeros((0, vectors.shape[1]), dtype=np.float32)
    save_file({"concepts": vectors, "names": empty}, folder / "vectors.safetensors")
    parts = describe_parts(folder)
    write_manifest(folder, "encoder", {"encoder_digest": encoder_digest(parts), "parts": parts})
    return folder


def resident_mb() -> float:
    """What this process holds in memory."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024


def measured(
    search: Callable[[np.ndarray], Any], rows: Callable[[Any], list[list[int]]], folder: Path
) -> dict[str, Any]:
    """Queries per second and recall of one way to search."""
    queries, tenth = np.load(folder / "queries.npy"), np.load(folder / "tenth.npy")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    search(queries[:8])
    started = time.perf_counter()
    for query in queries[:SINGLE]:
        search(query[None])
    single = SINGLE / (time.perf_counter() - started)
    started = time.perf_counter()
    found = search(queries)
    batch = len(queries) / (time.perf_counter() - started)
    near = np.stack([vectors[its] @ query for its, query in zip(rows(found), queries, strict=True)])
    return {"recall_at_10": float((near >= tenth[:, None] - 1e-6).mean()), "qps_single": single, "qps_batch": batch}


def run_ours(folder: Path, kind: str, threads: int) -> list[dict[str, Any]]:
    """Our index of the rows; the time to build it has the postings and tables of the names in it."""
    import faiss

    from kgkit.search.build import build_index
    from kgkit.search.concept_search import open_search

    faiss.omp_set_num_threads(threads)
    started = time.perf_counter()
    dense = build_index(folder / "rows", kind, out=folder / "index").dense
    took = time.perf_counter() - started
    before = resident_mb()
    search = open_search(folder / "rows", folder / "index")
    result = measured(
        lambda queries: search.search_vectors(queries, 10),
        lambda found: [[int(hit.concept[4:]) for hit in hits] for hits in found], folder,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in (folder / "index").iterdir()) / 2**20
    about = {"build_s": took, "grows_mb": resident_mb() - before, "file_mb": size}
    return [about | result | {"setting": f"{dense.kind} effort {dense.effort}", "stated_recall": dense.recall_at_10}]


def run_faiss(folder: Path, kind: str, threads: int) -> list[dict[str, Any]]:
    """FAISS alone."""
    import faiss

    faiss.omp_set_num_threads(threads)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    before, started = resident_mb(), time.perf_counter()
    index = faiss.index_factory(vectors.shape[1], {"flat": "Flat", "hnsw": "HNSW32"}[kind], faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(vectors), 1 << 15):
        index.add(np.ascontiguousarray(vectors[start : start + (1 << 15)]))
    took = time.perf_counter() - started
    found = []
    for effort in (0,) if kind == "flat" else EF:
        if effort:
            index.hnsw.efSearch = effort
        result = measured(lambda queries: index.search(queries, 10)[1], lambda rows: rows.tolist(), folder)
        found.append({"build_s": took, "grows_mb": resident_mb() - before, "setting": f"efSearch {effort}"} | result)
    return found


def run_hnswlib(folder: Path, threads: int) -> list[dict[str, Any]]:
    """The library hnswlib at the setting its authors suggest (M 16, ef_construction 200)."""
    try:
        import hnswlib
    except ImportError:
        return [{"setting": "not installed (pip install hnswlib; it may need a C++ compiler)"}]
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    before, started = resident_mb(), time.perf_counter()
    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=200, M=16)
    index.set_num_threads(threads)
    index.add_items(np.asarray(vectors))
    took = time.perf_counter() - started
    found = []
    for effort in EF:
        index.set_ef(effort)
        result = measured(lambda queries: index.knn_query(queries, 10)[0], lambda rows: rows.tolist(), folder)
        found.append({"build_s": took, "grows_mb": resident_mb() - before, "setting": f"ef {effort}"} | result)
    return found


def run_one(method: str, folder: Path, threads: int) -> list[dict[str, Any]]:
    """One method in this process."""
    side, _, kind = method.partition("-")
    if side == "ours":
        return run_ours(folder, kind, threads)
    return run_faiss(folder, kind, threads) if side == "faiss" else run_hnswlib(folder, threads)


def compare(vectors: np.ndarray, num_queries: int, threads: int) -> list[dict[str, Any]]:
    """All methods on one set of vectors, each in its own process."""
    from kgkit.search.dense import exact_nearest

    order = np.random.default_rng(1).permutation(len(vectors))
    queries, indexed = vectors[np.sort(order[:num_queries])], vectors[np.sort(order[num_queries:])]
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / "vectors.npy", indexed)
        np.save(folder / "queries.npy", queries)
        nearest = exact_nearest(queries, len(indexed), lambda part: indexed[part], 10)
        np.save(folder / "tenth.npy", np.einsum("qd,qd->q", indexed[nearest[:, 9]], queries))
        write_rows(folder / "rows", indexed)
        for method in METHODS:
            environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
            command = [sys.executable, __file__, "--only", method, "--folder", str(folder), "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise SystemExit(f"{method}: {done.stderr}")
            for row in json.loads(done.stdout):
                found.append({"method": method, "rows": len(indexed), "threads": threads} | row)
                print("  ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                                for name, value in found[-1].items()), flush=True)  # fmt: skip
    return found


def first_answer(encoder: Path, times: int = 5) -> dict[str, Any]:
    """`kgkit search` as a process, against importing torch and transformers, in turn; the least of each."""
    command = [str(Path(sys.executable).parent / "kgkit"), "search", str(encoder), "fluid around the lung"]
    heavy = [sys.executable, "-c", "import torch, transformers"]
    taken: dict[str, list[float]] = {"search": [], "imports": []}
    for _ in range(times):
        for name, each in (("search", command), ("imports", heavy)):
            started = time.perf_counter()
            subprocess.run(each, capture_output=True, check=True)
            taken[name].append(time.perf_counter() - started)
    least = {name: min(its) for name, its in taken.items()}
    return {"search_s": least["search"], "imports_s": least["imports"], "ratio": least["search"] / least["imports"]}


def whole_queries(encoder: Path) -> dict[str, float]:
    """Queries per second from text to hits, by mode, one by one and in a batch."""
    from kgkit.encoder.artifact import load_encoder
    from kgkit.search.concept_search import open_search

    names = load_encoder(encoder).names["name"].unique(maintain_order=True).to_list()
    texts = [names[row] for row in np.random.default_rng(2).choice(len(names), size=400, replace=False)]
    search, found = open_search(encoder), {}
    for mode in ("hybrid", "dense", "lexical"):
        search.search(texts[:3], mode=mode)
        started = time.perf_counter()
        for text in texts[:100]:
            search.search([text], mode=mode)
        found[f"{mode}_single"] = 100 / (time.perf_counter() - started)
        started = time.perf_counter()
        search.search(texts, mode=mode)
        found[f"{mode}_batch"] = len(texts) / (time.perf_counter() - started)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=500_000, help="text-like vectors; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run_one(options.only, options.folder, options.threads)))
        return
    from kgkit.encoder.artifact import load_encoder

    result: dict[str, Any] = {}
    if (options.encoder / "index").is_dir():
        result["first answer"] = first_answer(options.encoder)
        result["queries per second"] = whole_queries(options.encoder)
        print(json.dumps(result, indent=1))
    print("name vectors")
    result["name vectors"] = compare(load_encoder(options.encoder).name_vectors, options.queries, options.threads)
    if options.rows:
        print("text-like vectors")
        made = text_like(options.encoder, options.rows + options.queries)
        result["text-like vectors"] = compare(made, options.queries, options.threads)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
