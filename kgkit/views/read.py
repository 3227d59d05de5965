"""How everybody reads the views of a graph: what is missing, damaged or changed is said in the same words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from kgkit.errors import InputError
from kgkit.files import changed_files, file_digests, write_json_atomically

_DIGESTS = "digests.json"
_AGAIN = "ingest any source again to rebuild the views"


@contextmanager
def view_errors(views: Path) -> Iterator[None]:
    """Around whatever reads views: what goes wrong with their files becomes one line.

    Raises:
        InputError: if a view is missing or damaged.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"the views are missing; {_AGAIN}", views) from error
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(f"damaged ({str(error).splitlines()[0]}); {_AGAIN}", views) from error


def read_view(
    views: Path, name: str, columns: Sequence[str] | None = None, *, where: pl.Expr | None = None
) -> pl.DataFrame:
    """A view, or some of its columns and rows.

    Args:
        views: Folder of the views of a graph.
        name: `concepts`, `names`, `relations`, `triples` or `retired`.
        columns: Those wanted, in this order; None for all.
        where: Which rows.

    Raises:
        InputError: if it is missing or damaged.
    """
    with view_errors(views):
        rows = pl.scan_parquet(views / f"{name}.parquet")
        rows = rows if where is None else rows.filter(where)
        return (rows if columns is None else rows.select(columns)).collect()


def write_view_digests(views: Path) -> None:
    """Record the SHA-256 of every view, for `require_unchanged_views`."""
    names = sorted(path.name for path in views.glob("*.parquet"))
    write_json_atomically(views / _DIGESTS, file_digests(views, names))


def require_unchanged_views(views: Path) -> None:
    """Hold views against their digests; those that were made before digests were kept have none.

    Raises:
        InputError: naming the first that is missing or changed.
    """
    if (views / _DIGESTS).is_file():
        for name in _changed(views):
            raise InputError(f"digests disagree: the view has changed since it was made; {_AGAIN}", views / name)


def are_whole(views: Path) -> bool:
    """Whether views are there, and are those that were made."""
    try:
        return not _changed(views)
    except InputError:
        return False


def _changed(views: Path) -> list[str]:
    with view_errors(views):
        recorded = json.loads((views / _DIGESTS).read_text(encoding="utf-8"))
    return changed_files(views, recorded)
