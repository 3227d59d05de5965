"""Rectangles that readers drew, brought into pixels of the films as they are here."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from vlp.data.prepared import BOX_COLUMNS
from vlp.data.source import SourceData
from vlp.types import Study


def box_table(studies: Iterable[Study], images: pl.DataFrame, source: SourceData) -> pl.DataFrame:
    """BOX_COLUMNS of every box on a readable film.

    A box drawn on a film of another size (NIH's, 1024 x 1024) is scaled to this one.
    """
    sizes = {path: (width, height) for path, width, height in images.select("path", "width", "height").iter_rows()}
    rows = []
    for study in studies:
        for image in study.images:
            path = image.path.relative_to(source.image_root).as_posix()
            for box in image.boxes if path in sizes else ():
                width, height = sizes[path]
                frame = box.frame or (width, height)
                scale = (width / frame[0], height / frame[1])
                corners = [value * scale[axis % 2] for axis, value in enumerate(box.corners)]
                rows.append((study.study_id, path, box.label, *corners))
    return pl.DataFrame(rows, schema=BOX_COLUMNS, orient="row")
