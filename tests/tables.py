"""The integer-coded tables of a source, spelt out for tests."""

from __future__ import annotations

from typing import Any

from kgkit.sources.base import TABLES, SourceTables, decode_table


def rows(tables: SourceTables, table: str) -> set[tuple[Any, ...]]:
    """Rows of a table without its `graph` column, ids and relations as strings, null as None."""
    columns = [column for column in TABLES[table] if column != "graph"]
    return set(decode_table(tables, table).select(columns).rows())


def content(tables: SourceTables) -> dict[str, Any]:
    """Everything that a source says, comparable."""
    described = {"name": tables.name, "release": tables.release, "graphs": tables.graphs}
    return described | {table: rows(tables, table) for table in TABLES}
