"""Graphs for tests, made as the command line makes them."""

from __future__ import annotations

from pathlib import Path

from kgkit.graph.store import IngestSummary, ingest
from kgkit.sources.base import IngestLog
from kgkit.sources.radgraph import read_radgraph
from kgkit.sources.umls import UmlsOptions, read_umls

ROOT = Path(__file__).parent.parent
RADGRAPH = ROOT / "examples" / "radgraph"
THORAX = ROOT / "ontologies" / "thorax"


def ingest_umls(
    folder: Path, out: Path, release: str | None = None, languages: tuple[str, ...] = ("ENG",)
) -> IngestSummary:
    """Ingest a META folder."""
    log = IngestLog()
    return ingest(out, read_umls(folder, log, release, UmlsOptions(languages=languages)), log)


def ingest_radgraph(path: Path, out: Path) -> IngestSummary:
    """Ingest RadGraph JSON."""
    log = IngestLog()
    return ingest(out, read_radgraph(path, log), log)
