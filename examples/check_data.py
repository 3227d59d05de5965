"""Check that the bundled open data are complete and unaltered: `python examples/check_data.py`.

examples/data.toml lists the sets with origin, version, licence and citation. Each folder has a SHA256SUMS in
the format of sha256sum, so `sha256sum -c SHA256SUMS` inside the folder does the same for one set. A README.md
must be there but may be edited; every other file of a set is checked. Prints a line per set, then names each
missing, altered or unlisted file and exits with 1. Needs nothing but Python 3.11.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

SUMS = "SHA256SUMS"
FIELDS = ("name", "title", "folder", "origin", "version", "licence", "citation")


@dataclass(frozen=True)
class DataSet:
    """One bundled set.

    Attributes:
        name: Short name, as printed.
        licence: SPDX expression or the licence's name.
        root: The checkout.
        folder: Where the set is, as a POSIX path from the root.
        files: If not empty, the set is these files of the folder; otherwise all of the folder.
    """

    name: str
    licence: str
    root: Path
    folder: str
    files: tuple[str, ...]

    def path(self, name: str) -> Path:
        """Path of a file of the set."""
        return self.root / self.folder / name

    @property
    def readme(self) -> list[str]:
        """The README that a whole folder must have."""
        return [] if self.files else ["README.md"]

    def present(self) -> list[str]:
        """Data files there now, as POSIX paths inside the folder, sorted."""
        if self.files:
            return sorted(name for name in self.files if self.path(name).is_file())
        found = (path for path in self.path("").rglob("*") if path.is_file())
        names = {path.relative_to(self.path("")).as_posix() for path in found}
        return sorted(names - {SUMS, *self.readme})

    def size(self) -> int:
        """Bytes of all files of the set, documentation included."""
        paths = [self.path(name) for name in (*self.present(), SUMS, *self.readme)]
        return sum(path.stat().st_size for path in paths if path.is_file())

    def problems(self) -> list[str]:
        """One line per missing, altered or unlisted file."""
        listed, lines = read_sums(self.path(SUMS))
        if self.files:  # the folder's other sets stand in the same list
            listed = {name: value for name, value in listed.items() if name in self.files}
        present = {*self.present(), *(name for name in self.readme if self.path(name).is_file())}
        for name in sorted(present | listed.keys() | {*self.readme, *self.files}):
            if name not in present:
                lines.append(f"{name}: missing")
            elif name in listed and digest(self.path(name)) != listed[name]:
                lines.append(f"{name}: altered (its sha256 is not the one in {SUMS})")
            elif name not in listed and name not in self.readme:
                lines.append(f"{name}: not listed in {SUMS}")
        return [f"{self.folder}/{line}" for line in lines]

    def write_sums(self) -> None:
        """Write SHA256SUMS from the files that are there now; lines of the folder's other sets are kept."""
        sums = {name: digest(self.path(name)) for name in self.present()}
        if self.files:
            others = read_sums(self.path(SUMS))[0].items()
            sums |= {name: value for name, value in others if name not in self.files}
        lines = [f"{sums[name]}  {name}\n" for name in sorted(sums)]
        self.path(SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sums(path: Path) -> tuple[dict[str, str], list[str]]:
    """Name -> digest of a sha256sum file, and what is wrong with the file itself."""
    if not path.is_file():
        return {}, [f"{path.name}: missing"]
    sums: dict[str, str] = {}
    problems = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match:
            sums[match[2]] = match[1]
        else:
            problems.append(f"{path.name}:{number}: expected '<sha256>  <file>', found {line[:80]!r}")
    return sums, problems


def read_manifest(root: Path) -> tuple[list[DataSet], int]:
    """The sets of examples/data.toml and the allowed size in bytes.

    Raises:
        SystemExit: if the manifest is missing, is not TOML or lacks a field.
    """
    path = root / "examples" / "data.toml"
    try:
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SystemExit(f"{path}: {error}") from error
    sets = []
    for entry in manifest.get("set", []):
        for field in FIELDS:
            if not entry.get(field):
                raise SystemExit(f"{path}: set {entry.get('name', '?')!r} has no {field}")
        files = tuple(entry.get("files", ()))
        sets.append(DataSet(entry["name"], entry["licence"], root, entry["folder"], files))
    if not sets or "limit_mb" not in manifest:
        raise SystemExit(f"{path}: expected limit_mb and at least one [[set]]")
    return sets, int(manifest["limit_mb"] * 1e6)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Check the bundled open data against its SHA256SUMS.")
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent, help="the checkout")
    parser.add_argument("--write", action="store_true", help="write the SHA256SUMS anew, then check")
    arguments = parser.parse_args()
    sets, limit = read_manifest(arguments.root)
    problems = []
    for each in sets:
        if arguments.write:
            each.write_sums()
        problems += each.problems()
        print(f"{each.name:<16} {len(each.present()):>4} files {each.size() / 1e6:>7.2f} MB  {each.licence}")
    total = sum(each.size() for each in sets)
    print(f"{'in all':<16} {sum(len(each.present()) for each in sets):>4} files {total / 1e6:>7.2f} MB")
    if total > limit:
        problems.append(f"the bundled data take {total / 1e6:.2f} MB, more than {limit / 1e6:g} MB")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
