"""Builds the Oxigraph store of a graph in threads of its own, while quads are still being written and views made."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

import polars as pl
import pyoxigraph as ox

from kgkit.graph.quads import preferred_label_lines, read_quads
from kgkit.progress import ProgressReporter, progress

_BLOCK = 1 << 20
_WAITING_BLOCKS = 3
_SMALL = 2_000_000
"""Statements up to which two loaders share the work: Oxigraph sorts a million at a time on one core each, so a small
load keeps one core busy, and a large one all of them, with twice the memory for two loaders and no gain."""


class StoreBuilder:
    """Loads quads files and what is fed to it into a new store.

    Args:
        partial: Folder in which the store is made; what is there is removed.
        files: Quads files to load first.
        expected: About how many statements there will be in all.
    """

    def __init__(self, partial: Path, files: Sequence[Path], expected: int) -> None:
        self._partial = partial
        self._loaders = 2 if expected < _SMALL and (os.cpu_count() or 1) > 1 else 1
        self._source = _Blocks(files)
        self._threads = ThreadPoolExecutor(max_workers=self._loaders)
        self._loads: list[Future[None]] = []
        self._store: ox.Store | None = None

    def __enter__(self) -> Self:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._store = ox.Store(str(self._partial))
        self._progress = progress("store", None, "statements")
        reporter = self._progress.__enter__()
        self._source.reporter = reporter
        self._loads = [self._threads.submit(self._load, self._store) for _ in range(self._loaders)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.stop()
        self._threads.shutdown()
        self._loads.clear()
        self._store = None  # a store keeps its folder locked while it lives
        self._progress.__exit__(kind, error, trace)

    def feed(self, lines: bytes) -> None:
        """Load some whole lines; waits while the loaders are behind.

        Raises:
            OSError: if loading has failed (the disk is full, say).
        """
        while not self._source.put(lines):
            for load in self._loads:
                if load.done():
                    load.result()

    def finish(self, labels: pl.DataFrame, final: Path) -> None:
        """Wait for all statements, add the derived preferred labels, and put the store in its place."""
        self._source.close()
        for load in self._loads:
            load.result()
        store, self._store = self._store, None
        assert store is not None
        for lines in preferred_label_lines(labels):
            store.bulk_load(str(lines.str.join("\n").item()), format=ox.RdfFormat.N_QUADS)
        store.flush()
        del store
        if final.exists():  # the same statements as before
            shutil.rmtree(self._partial)
        else:
            self._partial.rename(final)

    def _load(self, store: ox.Store) -> None:
        """Load through a pipe that Oxigraph reads by itself; reads in Python would wait for the thread that writes."""
        reading, writing = os.pipe()
        pouring = threading.Thread(target=self._source.pour_into, args=(writing,), daemon=True)
        pouring.start()
        path = Path(f"/dev/fd/{reading}")
        with os.fdopen(reading, "rb") as stream:  # closed when loading fails too, which ends the pouring
            if path.exists():
                store.bulk_load(path=str(path), format=ox.RdfFormat.N_QUADS)
            else:
                store.bulk_load(stream, format=ox.RdfFormat.N_QUADS)
        pouring.join()
        self._source.raise_if_stopped()


class _Blocks:
    """Blocks of whole lines for several loaders: of the files first, then what is put in."""

    reporter: ProgressReporter

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._open: IO[bytes] | None = None
        self._rest = b""
        self._waiting: queue.Queue[bytes] = queue.Queue(_WAITING_BLOCKS)
        self._lock = threading.Lock()
        self._closed, self._stopped = threading.Event(), threading.Event()

    def put(self, lines: bytes) -> bool:
        """Add lines; False if there is no room yet."""
        try:
            self._waiting.put(lines, timeout=0.2)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Say that nothing more comes."""
        self._closed.set()

    def stop(self) -> None:
        """Give no more blocks."""
        self._stopped.set()

    def raise_if_stopped(self) -> None:
        """A load that was stopped ended too early."""
        if self._stopped.is_set():
            raise InterruptedError("stopped")

    def pour_into(self, pipe: int) -> None:
        """Write blocks into a pipe until there are no more, or nobody reads them."""
        try:
            with os.fdopen(pipe, "wb", buffering=0) as stream:
                while block := self._next():
                    view = memoryview(block)
                    while view:
                        view = view[stream.write(view) :]
        except BrokenPipeError:
            pass

    def _next(self) -> bytes:
        """The next block; empty at the end, and when all is stopped."""
        with self._lock:
            block = self._from_files() or self._put_in()
            self.reporter.advance(block.count(b"\n"))
            return block

    def _from_files(self) -> bytes:
        while (self._open or self._files) and not self._stopped.is_set():
            self._open = self._open or cast(IO[bytes], read_quads(self._files.pop(0)))
            if block := self._open.read(_BLOCK):
                head, newline, self._rest = (self._rest + block).rpartition(b"\n")
                if newline:
                    return head + newline
                continue
            self._open.close()
            self._open = None
            if self._rest:
                head, self._rest = self._rest, b""
                return head + b"\n"
        return b""

    def _put_in(self) -> bytes:
        while not self._stopped.is_set():
            closed = self._closed.is_set()  # before the queue is looked at: what was put in last is not missed
            try:
                return self._waiting.get(timeout=0.05) + b"\n"
            except queue.Empty:
                if closed:
                    break
        return b""
