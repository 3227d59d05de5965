"""Draw the Open-i studies of examples/openi from a larger copy of the Indiana University collection.

    python examples/select_openi.py SOURCE OUT

SOURCE holds reports.csv, projections.csv, labels14.csv, splits.csv and images/. OUT receives the same layout,
lines and images byte for byte, except that splits.csv gets our own train/val/test. One study is one patient,
so a split by study is a split by patient. The draw depends on the seed alone, not on the random generator of
a Python version: studies are taken in the order of the SHA-256 of "seed:uid".
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SEED = 2016
IMAGE_LIMIT = 14_000_000  # bytes


class Part(NamedTuple):
    """What one split is to hold.

    Attributes:
        size: Studies in all.
        pools: The source's splits to draw from; each is opened only for quotas that those before cannot fill.
        quota: Positives wanted of each label. The rest of the part is filled without looking at labels.
    """

    size: int
    pools: tuple[str, ...]
    quota: dict[str, int]


# Train and val never touch the source's val part: a model trained on them may be tested on that whole part.
# Test is drawn from there, with the Effusions it lacks from the source's train part. Train is rich in
# findings: a natural draw of 400 would hold 16 Effusions and 2 Pneumothoraces, too few to learn from.
PARTS = {
    "test": Part(
        size=130,
        pools=("val", "train"),
        quota={"Effusion": 25, "Atelectasis": 28, "Cardiomegaly": 28, "normal": 42},
    ),
    "val": Part(
        size=70,
        pools=("train",),
        quota={"Effusion": 11, "Atelectasis": 13, "Cardiomegaly": 13, "normal": 22},
    ),
    "train": Part(
        size=400,
        pools=("train",),
        quota={
            "Mass": 5,
            "Pneumothorax": 8,
            "Consolidation": 8,
            "Fibrosis": 8,
            "Pneumonia": 12,
            "Edema": 14,
            "Infiltration": 14,
            "Pleural_Thickening": 14,
            "Emphysema": 22,
            "Nodule": 28,
            "Effusion": 45,
            "Atelectasis": 75,
            "Cardiomegaly": 80,
            "normal": 110,
        },
    ),
}


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each record of a CSV file as its exact line and as a dict; the header comes first with its own names.

    Raises:
        SystemExit: if a record does not stand on one line of its own, since lines could not be copied then.
    """
    with path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader([file.readline()]))
        file.seek(0)
        for number, line in enumerate(file, start=1):
            fields = next(csv.reader([line]))
            if len(fields) != len(names):
                raise SystemExit(f"{path}:{number}: {len(fields)} fields, expected {len(names)}")
            yield line, dict(zip(names, fields, strict=True))


def read_table(path: Path) -> list[dict[str, str]]:
    """The records of a CSV file without the header."""
    return [row for _, row in read_lines(path)][1:]


def eligible(source: Path) -> dict[str, list[str]]:
    """Studies with a frontal film at hand and a findings or impression text: uid -> image files."""
    films: dict[str, list[str]] = {}
    for row in read_table(source / "projections.csv"):
        if row["projection"] == "Frontal" and row["has_image"] == "1":
            films.setdefault(row["uid"], []).append(row["image_file"])
    told = (r["uid"] for r in read_table(source / "reports.csv") if (r["findings"] + r["impression"]).strip())
    return {uid: films[uid] for uid in told if uid in films}


class Draw:
    """Takes studies for one part after the other.

    Args:
        uids: Studies to choose from.
        labels: uid -> label -> "0" or "1".
        home: uid -> the source's split.
        seed: Decides the order in which studies are looked at.
    """

    def __init__(self, uids: Sequence[str], labels: dict[str, dict[str, str]], home: dict[str, str], seed: int) -> None:
        self._order = sorted(uids, key=lambda uid: hashlib.sha256(f"{seed}:{uid}".encode()).digest())
        self._labels = labels
        self._home = home
        self.split: dict[str, str] = {}

    def take(self, part: str, pool: str, wanted: int, label: str | None = None) -> bool:
        """Add studies of a pool (with a label) until the part holds the number wanted; did the pool do?"""

        def fits(uid: str) -> bool:
            return label is None or self._labels[uid][label] == "1"

        have = sum(fits(uid) for uid, of in self.split.items() if of == part)
        for uid in self._order:
            if have < wanted and uid not in self.split and self._home[uid] == pool and fits(uid):
                self.split[uid] = part
                have += 1
        return have >= wanted

    def fill(self, name: str, part: Part) -> None:
        """Meet the quotas of a part, then its size.

        Raises:
            SystemExit: if the source cannot meet a quota or the quotas do not fit into the size.
        """
        for label, wanted in part.quota.items():
            if not any(self.take(name, pool, wanted, label) for pool in part.pools):
                raise SystemExit(f"{name}: the source has fewer than {wanted} studies with {label} left")
        self.take(name, part.pools[0], part.size)
        size = sum(of == name for of in self.split.values())
        if size != part.size:
            raise SystemExit(f"{name}: {size} studies drawn, expected {part.size}")


def write(source: Path, out: Path, films: dict[str, list[str]], split: dict[str, str]) -> int:
    """Write the chosen studies in the layout of the source; returns the bytes of all images.

    Raises:
        SystemExit: if the images are larger than IMAGE_LIMIT (nothing is written then).
    """
    names = {name for of in films.values() for name in of}
    size = sum((source / "images" / name).stat().st_size for name in names)
    if size > IMAGE_LIMIT:
        raise SystemExit(f"the images take {size} bytes, more than {IMAGE_LIMIT}")
    (out / "images").mkdir(parents=True)
    for name in sorted(names):
        (out / "images" / name).write_bytes((source / "images" / name).read_bytes())
    for table in ("reports.csv", "labels14.csv", "projections.csv", "splits.csv"):
        header, *records = read_lines(source / table)
        kept = [header[0]]
        for line, row in records:
            film = row.get("image_file")  # a column of projections.csv only
            if row["uid"] not in split or (film is not None and film not in names):
                continue
            ours = f"{row['uid']},{split[row['uid']]},{row.get('negbio_test')}\n"
            kept.append(ours if table == "splits.csv" else line)
        (out / table).write_text("".join(kept), encoding="utf-8", newline="")
    return size


def counts(split: dict[str, str], labels: dict[str, dict[str, str]]) -> str:
    """Positives per label and split as a Markdown table."""
    rows = ["| label | " + " | ".join(sorted(PARTS)) + " |", "|---" + "|---:" * len(PARTS) + "|"]
    findings = [name for name in next(iter(labels.values())) if name != "uid"]
    for label in ["studies", *findings]:
        cells = [
            sum(split[uid] == part and (label == "studies" or labels[uid][label] == "1") for uid in split)
            for part in sorted(PARTS)
        ]
        rows.append(f"| {label} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw the studies of examples/openi.")
    parser.add_argument("source", type=Path, help="the larger copy of the collection")
    parser.add_argument("out", type=Path, help="folder to write; it must not hold images/ yet")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    if not (arguments.source / "projections.csv").is_file():
        sys.exit(f"{arguments.source}: no projections.csv here")
    if (arguments.out / "images").exists():
        sys.exit(f"{arguments.out / 'images'}: exists already; remove it or name another folder")
    labels = {row["uid"]: row for row in read_table(arguments.source / "labels14.csv")}
    home = {row["uid"]: row["split"] for row in read_table(arguments.source / "splits.csv")}
    films = eligible(arguments.source)
    draw = Draw(list(films), labels, home, arguments.seed)
    for name, part in PARTS.items():
        draw.fill(name, part)
    chosen = {uid: films[uid] for uid in draw.split}
    size = write(arguments.source, arguments.out, chosen, draw.split)
    print(counts(draw.split, labels))
    print(f"\n{len(chosen)} studies, {sum(map(len, chosen.values()))} films, {size / 1e6:.2f} MB of images")


if __name__ == "__main__":
    main()
