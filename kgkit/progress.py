"""Progress of long work: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LOG_INTERVAL_S = 10.0
_QUIET_S = 2.0
"""Shorter work is not worth a line in a log."""


class ProgressReporter:
    """Counts units of work; create it with `progress`."""

    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self._description = description
        self._total = total
        self._unit = unit
        self._started = time.monotonic()
        self._last_log = self._started
        self._done = 0
        self._note = ""
        self._bar: Progress | None = None
        console = Console(file=sys.stderr)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console,
            )  # fmt: skip
            self._task = self._bar.add_task(description, total=total, rate="", note="")
            self._bar.start()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that `count` more units are done; `note` (a loss, say) replaces the last one."""
        self._done += count
        self._note = note or self._note
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, advance=count, rate=self._rate(now), note=self._note)
        elif now - self._last_log >= _LOG_INTERVAL_S:
            self._last_log = now
            of, left = "", ""
            if self._total is not None:
                seconds = (self._total - self._done) * (now - self._started) / max(self._done, 1)
                of, left = f"/{self._total}", f", {seconds:.0f} s left"
            self._print(f"{self._done}{of} {self._unit}, {self._rate(now)}{left} {self._note}")

    def close(self) -> None:
        """Finish: one last line with the whole count and the rate, if it took a while."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.stop()
        elif (took := now - self._started) >= _QUIET_S:
            self._print(f"{self._done} {self._unit} in {took:.1f} s, {self._rate(now)} {self._note}".rstrip())

    def _rate(self, now: float) -> str:
        return f"{self._done / max(now - self._started, 1e-6):,.0f} {self._unit}/s"

    def _print(self, text: str) -> None:
        sys.stderr.write(f"{self._description}: {text}\n")
        sys.stderr.flush()


@contextmanager
def progress(description: str, total: int | None, unit: str) -> Iterator[ProgressReporter]:
    """Show the progress of `total` units of work (None: nobody knows how many) on standard error."""
    reporter = ProgressReporter(description, total, unit)
    try:
        yield reporter
    finally:
        reporter.close()
