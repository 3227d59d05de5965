"""Every reader by the name of its data set."""

from __future__ import annotations

from types import MappingProxyType

from vlp.data.chestxdet10 import read_chestxdet10
from vlp.data.chexpert import read_chexpert
from vlp.data.mimic_cxr import read_mimic_cxr
from vlp.data.nih import read_nih
from vlp.data.openi import read_openi
from vlp.data.padchest import read_padchest
from vlp.data.plain_csv import read_plain_csv
from vlp.data.source import Reader

READERS: MappingProxyType[str, Reader] = MappingProxyType(
    {
        "openi": read_openi,
        "nih": read_nih,
        "mimic-cxr": read_mimic_cxr,
        "chexpert": read_chexpert,
        "padchest": read_padchest,
        "chestxdet10": read_chestxdet10,
        "csv": read_plain_csv,
    }
)
"""Data set name -> reader of its layouts. A new layout is a function here and a test in its exact form."""
