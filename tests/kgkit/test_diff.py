"""What changed between two graphs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
from graphs import ingest_umls
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from rrf import Rrf, tiny_rrf

from kgkit.errors import InputError
from kgkit.files import FORMAT_VERSIONS
from kgkit.graph.diff import GraphDiff, diff, diff_lines

IDS = [f"umls:C{number:07}" for number in range(5)] + ["HP:1", "HP:2", "MONDO:1", "MONDO:2"]
REASONS = ("SY", "RB", "RN", "RO", "DEL", "merged", "obsolete")


@dataclass(frozen=True)
class Content:
    """What a graph folder's views say."""

    classes: Mapping[str, tuple[frozenset[str], str | None]]  # concept -> members, preferred name
    facts: frozenset[tuple[str, str, str]] = frozenset()
    names: frozenset[tuple[str, str, str]] = frozenset()
    retired: frozenset[tuple[str, str, str | None]] = frozenset()
    sources: Mapping[str, str] = field(default_factory=dict)  # name@release -> digest

    @property
    def concept_of(self) -> dict[str, str]:
        return {member: concept for concept, (members, _) in self.classes.items() for member in members}

    def write(self, folder: Path) -> Path:
        views = folder / "views" / "0"
        views.mkdir(parents=True)
        concepts = sorted(self.classes)
        columns = {"concept": concepts, "name": [self.classes[concept][1] for concept in concepts],
                   "members": [sorted(self.classes[concept][0]) for concept in concepts]}  # fmt: skip
        schema = {"concept": pl.String, "name": pl.String, "members": pl.List(pl.String)}
        pl.DataFrame(columns, schema=schema).write_parquet(views / "concepts.parquet")
        relations = sorted({relation for _, relation, _ in self.facts})
        pl.DataFrame({"relation": relations}, schema={"relation": pl.String}).write_parquet(views / "relations.parquet")
        rows = [(concepts.index(head), relations.index(relation), concepts.index(tail))
                for head, relation, tail in self.facts]  # fmt: skip
        tables = {
            "triples": (sorted(rows), dict.fromkeys(("head", "relation", "tail"), pl.Int64)),
            "names": (sorted(self.names), dict.fromkeys(("concept", "name", "language"), pl.String)),
            "retired": (sorted(self.retired, key=str), dict.fromkeys(("retired", "reason", "target"), pl.String)),
        }
        for name, (content, columns_of) in tables.items():
            pl.DataFrame(content, schema=columns_of, orient="row").write_parquet(views / f"{name}.parquet")
        sources = {key: {"name": key.partition("@")[0], "release": key.partition("@")[2], "digest": digest,
                         "statements": len(digest)} for key, digest in self.sources.items()}  # fmt: skip
        head = {"kind": "kg", "format_version": FORMAT_VERSIONS["kg"]}
        (folder / "manifest.json").write_text(json.dumps(head | {"graph_digest": "0", "sources": sources}))
        return folder


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Any small graph: classes of ids, facts, names, records of retired ids with chains and circles."""
    ids = sorted(draw(st.sets(st.sampled_from(IDS), min_size=1)))
    group = draw(st.lists(st.integers(0, 5), min_size=len(ids), max_size=len(ids)))
    classes: dict[int, set[str]] = {}
    for place, number in zip(ids, group, strict=True):
        classes.setdefault(number, set()).add(place)
    name = st.none() | st.sampled_from("abc")
    table = {max(members): (frozenset(members), draw(name)) for members in classes.values()}
    concept = st.sampled_from(sorted(table))
    text = st.sampled_from("abc")
    return Content(
        classes=table,
        facts=draw(st.frozensets(st.tuples(concept, st.sampled_from(("isa", "r")), concept), max_size=8)),
        names=draw(st.frozensets(st.tuples(concept, text, st.sampled_from(("en", "de"))), max_size=6)),
        retired=draw(st.frozensets(st.tuples(st.sampled_from(IDS), st.sampled_from(REASONS),
                                             st.none() | st.sampled_from(IDS)), max_size=8)),
        sources=draw(st.dictionaries(st.sampled_from(("a@1", "a@2", "b@1")), st.text("xy", max_size=2))),
    )  # fmt: skip


def compare(old: Content, new: Content) -> GraphDiff:
    with tempfile.TemporaryDirectory() as scratch:
        return diff(old.write(Path(scratch) / "old"), new.write(Path(scratch) / "new"))


def ids(frame: pl.DataFrame) -> set[str]:
    return set(frame["id"].to_list())


@settings(max_examples=25)
@given(contents())
def test_a_graph_does_not_differ_from_itself(content: Content) -> None:
    found = compare(content, content)
    assert found.is_empty()
    assert list(diff_lines(found, 5)) == ["no difference"]


@settings(max_examples=25)
@given(contents(), contents())
def test_what_is_added_one_way_is_removed_the_other(old: Content, new: Content) -> None:
    there, back = compare(old, new), compare(new, old)
    assert_frame_equal(there.added, back.removed)
    assert_frame_equal(there.removed, back.added)
    assert_frame_equal(there.facts, back.facts.select("relation", added="removed", removed="added"))
    assert_frame_equal(there.renamed, back.renamed.select("concept", old="new", new="old"))
    assert_frame_equal(there.regrouped, back.regrouped.select("id", old="new", new="old"))
    assert (there.names_added, there.names_removed) == (back.names_removed, back.names_added)


@settings(max_examples=25)
@given(contents(), contents())
def test_the_changes_lead_from_the_old_classes_to_the_new(old: Content, new: Content) -> None:
    found = compare(old, new)
    concept_of = {member: concept for member, concept in old.concept_of.items() if member not in ids(found.removed)}
    concept_of |= dict(found.added.select("id", "concept").iter_rows())
    concept_of |= dict(found.regrouped.select("id", "new").iter_rows())
    assert concept_of == new.concept_of
    names = {concept: old.classes[concept][1] for concept in old.classes if concept in new.classes}
    names |= dict(found.renamed.select("concept", "new").iter_rows())
    assert names == {concept: new.classes[concept][1] for concept in names}


def chain_ends(start: str, content: Content) -> set[tuple[str, bool]]:
    """A slow reading of the records of retired ids: ids in use, and whether they mean the same as `start`."""
    ends, seen, waiting = set(), set(), [(start, True)]
    while waiting:
        place, same = waiting.pop()
        for retired, reason, target in content.retired:
            if retired != place or target is None:
                continue
            step = (target, same and reason not in ("RB", "RN", "RO"))
            if target in content.concept_of:
                ends.add(step)
            elif step not in seen:
                seen.add(step)
                waiting.append(step)
    return ends


@settings(max_examples=25)
@given(contents(), contents())
def test_what_is_gone_is_explained_as_a_slow_reading_explains_it(old: Content, new: Content) -> None:
    found = compare(old, new)
    merged, split, deleted = set(), set(), set()
    for gone in ids(found.removed):
        ends = chain_ends(gone, new)
        if len({place for place, _ in ends}) == 1 and any(same for _, same in ends):
            merged.add((gone, next(iter(ends))[0]))
        elif ends:
            split |= {(gone, place) for place, _ in ends}
        elif gone in {retired for retired, _, _ in new.retired}:
            deleted.add(gone)
    assert set(found.merged.select("id", "into").iter_rows()) == merged
    assert set(found.split.select("id", "into").iter_rows()) == split
    assert ids(found.deleted) == deleted
    for frame in (found.added, found.removed, found.regrouped, found.merged, found.deleted):
        assert frame["id"].to_list() == sorted(ids(frame))


@settings(max_examples=25)
@given(contents(), contents())
def test_facts_and_names_are_counted_as_sets(old: Content, new: Content) -> None:
    found = compare(old, new)
    expected = [
        (relation, sum(fact[1] == relation for fact in new.facts - old.facts),
         sum(fact[1] == relation for fact in old.facts - new.facts))
        for relation in sorted({relation for _, relation, _ in new.facts ^ old.facts})
    ]  # fmt: skip
    assert found.facts.rows() == expected
    assert (found.names_added, found.names_removed) == (len(new.names - old.names), len(old.names - new.names))
    changed = {name for name in ("a", "b") if {key: digest for key, digest in old.sources.items() if key[0] == name}
               != {key: digest for key, digest in new.sources.items() if key[0] == name}}  # fmt: skip
    assert set(found.sources["name"].to_list()) == changed


def release(number: int) -> Rrf:
    """Two releases: a CUI renamed, one merged over a chain, one split, one only broader, one deleted, one vanished."""
    rrf = Rrf().atom("C0000001", "Effusion" if number == 1 else "Pleural effusion").atom("C0000002", "Lung")
    rrf.relation("C0000002", "RO", "C0000001", "has_finding_site")
    if number == 1:
        for cui in range(3, 8):
            rrf.atom(f"C000000{cui}", f"Name {cui}")
        return rrf.relation("C0000001", "CHD", "C0000003", "isa")
    rrf.atom("C0000008", "New").relation("C0000001", "CHD", "C0000008", "isa")
    for cui, relation, target in (
        ("C0000003", "SY", "C0000099"), ("C0000099", "SY", "C0000001"), ("C0000004", "RO", "C0000001"),
        ("C0000004", "RO", "C0000002"), ("C0000005", "RB", "C0000001"), ("C0000006", "DEL", ""),
    ):  # fmt: skip
        rrf.row("MRCUI", {"CUI1": cui, "VER": "2025AA", "REL": relation, "CUI2": target})
    return rrf


def test_two_releases(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    for number in (1, 2):
        ingest_umls(
            release(number).write(tmp_path / f"META{number}"), tmp_path / f"kg{number}", f"2025A{'AB'[number - 1]}"
        )
    status, printed, _ = command("kgkit", "diff", tmp_path / "kg1", tmp_path / "kg2", "--json")
    assert status == 0
    found = json.loads(printed)
    assert found["added"] == [{"id": "umls:C0000008", "concept": "umls:C0000008", "name": "New"}]
    assert [row["id"] for row in found["removed"]] == [f"umls:C000000{cui}" for cui in range(3, 8)]
    assert found["merged"] == [
        {"id": "umls:C0000003", "name": "Name 3", "into": "umls:C0000001", "into_name": "Pleural effusion"}
    ]
    assert [(row["id"], row["into"], row["reason"]) for row in found["split"]] == [
        ("umls:C0000004", "umls:C0000001", "RO"), ("umls:C0000004", "umls:C0000002", "RO"),
        ("umls:C0000005", "umls:C0000001", "RB"),
    ]  # fmt: skip
    assert found["deleted"] == [{"id": "umls:C0000006", "name": "Name 6", "reason": "DEL"}]
    assert found["renamed"] == [{"concept": "umls:C0000001", "old": "Effusion", "new": "Pleural effusion"}]
    assert found["facts"] == [{"relation": "isa", "added": 1, "removed": 1}]
    assert (found["names_added"], found["names_removed"]) == (2, 6)
    assert [(row["old"], row["new"]) for row in found["sources"]] == [(["2025AA"], ["2025AB"])]
    status, printed, _ = command("kgkit", "diff", tmp_path / "kg1", tmp_path / "kg2", "--limit", "1")
    assert status == 0
    assert "ids: 1 added, 5 removed (1 merged, 2 split, 1 deleted, 1 without a record)" in printed
    assert "removed: ... 4 more" in printed
    assert "merged: umls:C0000003  Name 3  umls:C0000001  Pleural effusion" in printed


def test_a_graph_ingested_twice_does_not_differ(tmp_path: Path) -> None:
    for number in (1, 2):
        ingest_umls(tiny_rrf().write(tmp_path / f"META{number}", shuffle=number), tmp_path / f"kg{number}", "2026AA")
    assert diff(tmp_path / "kg1", tmp_path / "kg2").is_empty()


def test_an_empty_graph_lacks_everything(tmp_path: Path) -> None:
    full = Content({"umls:C0000001": (frozenset({"umls:C0000001", "HP:1"}), "a")}, sources={"a@1": "x"})
    found = compare(Content({}), full)
    assert ids(found.added) == {"umls:C0000001", "HP:1"}
    assert found.removed.is_empty()


def test_what_is_no_graph_is_named(tmp_path: Path) -> None:
    Content({}).write(tmp_path / "kg")
    with pytest.raises(InputError, match=r"none: no such folder; expected a knowledge graph"):
        diff(tmp_path / "kg", tmp_path / "none")
    (tmp_path / "kg" / "views" / "0" / "retired.parquet").unlink()
    with pytest.raises(InputError, match="the views are missing; ingest any source again"):
        diff(tmp_path / "kg", tmp_path / "kg")
