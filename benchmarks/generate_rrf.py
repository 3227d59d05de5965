"""RRF tables of any size in the proportions of a UMLS release, with every string made up.

    python benchmarks/generate_rrf.py FOLDER --share 0.01 [--seed 0] [--gzip]

Writes FOLDER/META with MRCONSO, MRREL, MRDEF, MRSTY, MRSAB, MRRANK, MRDOC, MRCUI and MRFILES. A share of 1 is a full
release: 3.4 million concepts, 17 million MRCONSO rows, 90 million MRREL rows (each fact from both sides). The same
share and seed give the same bytes. Proportions: published MRFILES and statistics of releases 2020AA to 2026AA.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import polars as pl
from rrf_vocabulary import CANONICAL_REL, Sources, Relations, Words, relations, sources, words

from kgkit.progress import progress
from kgkit.resources import resource
from kgkit.sources.rrf import COLUMNS

CONCEPTS, ATOMS, FACTS, DEFINITIONS, RETIRED = 3_400_000, 17_000_000, 45_000_000, 500_000, 2_700_000
"""Rows of a full release; a fact is two rows of MRREL."""

CHUNK_ROWS = 1_000_000
SUPPRESS = ("N", "O", "Y", "E")
Ints = npt.NDArray[np.int64]
