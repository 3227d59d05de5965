"""The integer-coded tables of a source, spelt out for tests."""

from __future__ import annotations

from typing import Any

from kgkit.sources.base import ID_COLUMNS, TABLES, SourceTables


def rows(tables: SourceTables, table: str) -> set[tuple[Any, ...]]:
    """Rows of a table without its `graph` column, ids and relations as strings, null as None."""
    spelt = {**dict.fromkeys(ID_COLUMNS, tables.ids), "relation": tables.relations}
    frame = getattr(tables, table)
    columns = [column for column in TABLES[table] if column != "graph"]
    return {
        tuple(
            spelt[column][value] if column in spelt and value is not None else value
            for column, value in zip(columns, row, strict=True)
        )
        for row in frame.select(columns).iter_rows()
    }


def content(tables: SourceTables) -> dict[str, Any]:
    """Everything that a source says, comparable."""
    described = {"name": tables.name, "release": tables.release, "graphs": tables.graphs}
    return described | {table: rows(tables, table) for table in TABLES}
