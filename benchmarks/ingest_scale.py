"""How do time, memory and disk of an ingest grow with the release?

    python benchmarks/ingest_scale.py SCRATCH [--shares 0.01 0.03 0.1]

Makes releases in the UMLS's proportions (generate_rrf.py) in SCRATCH, where they are not there yet, ingests each in a
process of its own, and prints seconds, peak memory and disk, with what a straight line through the last two points
gives for a full release (17 million names, 90 million rows of relations).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def ingest(folder: Path, out: Path) -> tuple[float, float, float]:
    """Seconds, peak gigabytes of memory and gigabytes on disk of one ingest."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", "import cli; cli.kgkit_main()", "ingest", "umls", str(folder), "--out", str(out)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("the ingest failed")
    took = time.perf_counter() - begin
    disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return took, usage.ru_maxrss / 1e6, disk / 1e9


def main(scratch: Path, shares: list[float]) -> None:
    """Measure and print."""
    points = []
    for share in sorted(shares):
        folder = scratch / f"rrf-{share:g}"
        if not (folder / "META" / "MRFILES.RRF").exists():
            generator = [sys.executable, str(ROOT / "benchmarks/generate_rrf.py"), str(folder), "--share", str(share)]
            subprocess.run(generator, check=True)
        out = scratch / f"kg-{share:g}"
        took, memory, disk = ingest(folder, out)
        points.append((share, took, memory, disk))
        print(f"{share:.0%} of a release: {took:.0f} s, peak memory {memory:.2f} GB, disk {disk:.2f} GB", flush=True)
    if len(points) > 1:
        (low, *first), (high, *last) = points[-2:]
        whole = [end + (end - begin) / (high - low) * (1 - high) for begin, end in zip(first, last, strict=True)]
        print(f"a straight line gives for all of it: {whole[0] / 60:.0f} min, {whole[1]:.1f} GB memory, "
              f"{whole[2]:.1f} GB disk; the goal is 30 min, 8 GB")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.03, 0.1])
    options = parser.parse_args()
    main(options.scratch, options.shares)
