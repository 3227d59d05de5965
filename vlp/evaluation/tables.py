"""Tables in the form in which others publish them, so that numbers can stand beside theirs.

CheXpert: five findings (Irvin et al., AAAI 2019). ChestX-ray14: fourteen (Wang et al., CVPR 2017). PadChest: every
    label of it that the table of findings knows (KAD and its successors ask 192 or 193), and the rarest twenty of
    them in these data. The published mean is over all findings of a table, however few their positives; a table
    says what it lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kgkit.interface import Finding, load_findings

_CHEXPERT5 = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
_CHESTXRAY14 = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
_RAREST = 20
_PADCHEST_LABELS = 193
_FEWEST = 2


def published_tables(
    findings: Mapping[str, Finding | None], rows: Mapping[str, Mapping[str, Any]], label_set: str
) -> dict[str, dict[str, Any]]:
    """The published tables for which these data have two findings or more.

    Args:
        findings: Name of each row -> its finding.
        rows: Name -> its metrics, `auroc` None where undefined; `normal` left out.
        label_set: What the labels are called after, such as `padchest`.

    Returns:
        Table -> `findings` (name, auroc, low, high, positives in published order), `mean_auroc` over the defined ones,
        `missing`, `undefined`, `published` (how many findings the published table has) and `is_complete`.
    """
    by_key = {finding.key: name for name, finding in findings.items() if finding is not None and name in rows}
    wanted = {
        "CheXpert 5": list(_CHEXPERT5),
        "ChestX-ray14": _keys_of("nih", _CHESTXRAY14),
    }
    if label_set == "padchest":
        wanted["PadChest"] = [f.key for f in load_findings().values() if "padchest" in f.labels and f.key != "normal"]
        there = [key for key in wanted["PadChest"] if key in by_key and rows[by_key[key]]["positives"] > 0]
        by_count = sorted(there, key=lambda key: (rows[by_key[key]]["positives"], key))
        wanted["PadChest, rarest 20 in these data"] = by_count[:_RAREST]
    published = {"PadChest": _PADCHEST_LABELS}
    found = {table: _table(keys, by_key, rows, published.get(table, len(keys))) for table, keys in wanted.items()}
    return {name: table for name, table in found.items() if len(table["findings"]) >= _FEWEST}


def _keys_of(dataset: str, labels: Sequence[str]) -> list[str]:
    by_label = {finding.labels.get(dataset): finding.key for finding in load_findings().values()}
    return [by_label[label] for label in labels if label in by_label]


def _table(
    keys: Sequence[str], by_key: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]], published: int
) -> dict[str, Any]:
    present = [by_key[key] for key in keys if key in by_key]
    lines = [{"name": name} | {k: rows[name][k] for k in ("auroc", "low", "high", "positives")} for name in present]
    defined = [line["auroc"] for line in lines if line["auroc"] is not None]
    missing = [key for key in keys if key not in by_key]
    return {
        "findings": lines,
        "mean_auroc": sum(defined) / len(defined) if defined else None,
        "missing": missing,
        "undefined": [line["name"] for line in lines if line["auroc"] is None],
        "published": published,
        "is_complete": len(defined) == published,
    }
