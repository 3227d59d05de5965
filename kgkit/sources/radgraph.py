"""RadGraph annotations to mentions: RadGraph 1.0, RadGraph-XL, RadGraph2, the radgraph package's output, CheXpert Plus.

Formats: RadGraph 1.0 (Jain et al. 2021; the file of two labelers too), RadGraph-XL (Delbrouck et al. 2024; as JSON, or
as JSON Lines of DyGIE++ documents), RadGraph2 (Khanna et al. 2023). `start_ix` and `end_ix` are inclusive indices
into the text split at single blanks; relations stand on their source entity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kgkit.errors import InputError
from kgkit.sources.base import IngestLog, SourceTables
from kgkit.sources.corpus import REPORT_LICENCE_LEVEL, Place, corpus_tables
from kgkit.sources.json_records import HALF_CHARACTER
from kgkit.sources.radgraph_files import RawReport, find_files, read_raw_reports
from kgkit.types import Certainty, Change, Mention, MentionKind, MentionRelation, ReportMentions

_ANATOMY, _OBSERVATION = MentionKind.ANATOMY, MentionKind.OBSERVATION


@dataclass(frozen=True, slots=True)
class _Label:
    """What a label says of its words."""

    kind: MentionKind
    certainty: Certainty
    change: Change | None = None
    is_measurement: bool = False


_CERTAINTY = MappingProxyType(
    {
        "definitely present": Certainty.PRESENT,
        "uncertain": Certainty.UNCERTAIN,
        "definitely absent": Certainty.ABSENT,
    }
)
_CHANGES = MappingProxyType(
    {
        "CHAN-NC": Change.UNCHANGED,
        "CHAN-CON-AP": Change.CONDITION_APPEARED,
        "CHAN-CON-WOR": Change.CONDITION_WORSENED,
        "CHAN-CON-IMP": Change.CONDITION_IMPROVED,
        "CHAN-CON-RES": Change.CONDITION_RESOLVED,
        "CHAN-DEV-AP": Change.DEVICE_APPEARED,
        "CHAN-DEV-PLACE": Change.DEVICE_MOVED,
        "CHAN-DEV-DISA": Change.DEVICE_REMOVED,
        # Labels of the first annotation. Only conditions worsen or improve, and only devices are displaced.
        "CHAN-WOR": Change.CONDITION_WORSENED,
        "CHAN-IMP": Change.CONDITION_IMPROVED,
        "CHAN-DISP": Change.DEVICE_MOVED,
        "CHAN-AP": Change.APPEARED,
        "CHAN-DISA": Change.DISAPPEARED,
    }
)
LABELS: Mapping[str, _Label] = MappingProxyType(
    {
        "ANAT-DP": _Label(_ANATOMY, Certainty.PRESENT),
        "OBS-DP": _Label(_OBSERVATION, Certainty.PRESENT),
        "OBS-U": _Label(_OBSERVATION, Certainty.UNCERTAIN),
        "OBS-DA": _Label(_OBSERVATION, Certainty.ABSENT),
        **{label: _Label(_OBSERVATION, Certainty.PRESENT, change) for label, change in _CHANGES.items()},
        **{
            f"{kind.capitalize()}::{measurement}{words}": _Label(kind, certainty, None, bool(measurement))
            for kind in MentionKind
            for measurement in ("", "measurement::")
            for words, certainty in _CERTAINTY.items()
        },
    }
)
"""Every label of every version. A change is a mention of its own, stated as present, which modifies what changed."""

_RELATIONS = {relation.value: relation for relation in MentionRelation}
_ALLOWED_ENDS = MappingProxyType(
    {
        MentionRelation.LOCATED_AT: {(_OBSERVATION, _ANATOMY)},
        MentionRelation.SUGGESTIVE_OF: {(_OBSERVATION, _OBSERVATION)},
        MentionRelation.MODIFY: {(kind, kind) for kind in MentionKind},
    }
)


def read_radgraph(
    path: Path,
    log: IngestLog,
    corpus: str | None = None,
    release: str = "1",
    licence_level: int = REPORT_LICENCE_LEVEL,
) -> SourceTables:
    """Read RadGraph annotations.

    Reports are read while `reports` of the result is iterated, one at a time; only then are the log's counts complete
    and the content of the files checked. A list of reports (CheXpert Plus) is numbered from 0 by position; a text with
    two readings becomes two reports, `<id>#labeler_1` and `<id>#labeler_2`.

    Args:
        path: A `.json` or `.jsonl` file, gzipped or not, a `.zip` of such files, or a folder with any of these.
        log: Where reports, entities, relations and what is wrong with them are counted.
        corpus: Name of the corpus; the file's or folder's name if not given.
        release: Release of the corpus.
        licence_level: UMLS source restriction level of the corpus; lower it where the reports may be passed on.

    Raises:
        InputError: if there is no such file; while iterating, if one is not JSON, holds no report that can be read,
            or holds another report under the same id.
    """
    files = find_files(path)
    log.files += files
    reports = (placed for file in files for placed in _read_file(file, log))
    return corpus_tables(path, corpus, release, "RadGraph annotations", licence_level, reports, log)


def _read_file(path: Path, log: IngestLog) -> Iterator[tuple[Place, ReportMentions]]:
    num_read = num_used = 0
    first_problem = ""
    for raw in read_raw_reports(path):
        num_read += 1
        log.rows_read["reports"] += 1
        problem = _problem(raw)
        if problem:
            first_problem = first_problem or f"report {raw.report_id!r} {problem}"
            log.defect("reports", problem, raw.place, raw.report_id)
            continue
        num_used += 1
        for relation in raw.loose_relations:
            log.rows_read["relations"] += 1
            log.defect("relations", "source entity does not exist", raw.place, f"report {raw.report_id}: {relation}")
        for suffix, entities in raw.readings.items():
            yield raw.place, _Reader(raw, raw.report_id + suffix, log).read(entities)
    if num_read and not num_used:
        raise InputError(f"no report can be read; {first_problem}", path)


def _problem(raw: RawReport) -> str:
    """Why a report cannot be read, or nothing."""
    if raw.problem:
        return raw.problem
    if not isinstance(raw.text, str):
        return "has no text; expected RadGraph's text and entities"
    if HALF_CHARACTER.search(raw.report_id + raw.text):
        return "holds half a character (a lone \\ud800..\\udfff)"
    if not raw.readings:
        return "has neither entities nor labelers"
    if not all(isinstance(entities, dict) for entities in raw.readings.values()):
        return "has entities that are not an object of id and entity"
    return ""


class _Reader:
    """One reading of one report."""

    def __init__(self, raw: RawReport, report_id: str, log: IngestLog) -> None:
        self._place = raw.place
        self._text: str = raw.text
        self._report_id = report_id
        self._log = log
        # Where each token starts; the last is one past the blank that would follow the text.
        self._starts = [0, *accumulate(len(token) + 1 for token in self._text.split(" "))]

    def read(self, entities: Mapping[str, Any]) -> ReportMentions:
        found = {key: label for key, entity in entities.items() if (label := self._label(key, entity))}
        position = {key: index for index, key in enumerate(found)}
        mentions = []
        for key, label in found.items():
            entity = entities[key]
            start, end = self._starts[entity["start_ix"]], self._starts[entity["end_ix"] + 1] - 1
            relations = tuple(dict.fromkeys(self._relations(key, entities, found, position)))
            mention = Mention(
                self._text[start:end], start, end, label.kind, label.certainty,
                relations=relations, change=label.change, is_measurement=label.is_measurement,
            )  # fmt: skip
            mentions.append(mention)
            if entity.get("tokens") and entity["tokens"] != self._text[start:end]:
                self._log.rows_read["entities whose tokens are not those of the text (kept)"] += 1
        if in_cycle := _modify_relations_in_cycles(mentions):
            self._log.rows_read["modify relations in a cycle (kept)"] += in_cycle
        return ReportMentions(self._report_id, self._text, tuple(mentions))

    def _label(self, key: str, entity: Any) -> _Label | None:
        """Label of an entity that can be read; None for one that is counted as a defect."""
        self._log.rows_read["entities"] += 1
        problem, value = self._entity_problem(entity)
        if problem:
            self._defect("entities", problem, key, value)
            return None
        return LABELS[entity["label"]]

    def _entity_problem(self, entity: Any) -> tuple[str, object]:
        if not isinstance(entity, dict):
            return "not an object", entity
        for name in ("label", "start_ix", "end_ix"):
            if entity.get(name) is None:
                return f"no {name}", entity
        label, first, last, count = entity["label"], entity["start_ix"], entity["end_ix"], len(self._starts) - 1
        if not isinstance(label, str) or label not in LABELS:
            return "unknown label", label
        if type(first) is not int or type(last) is not int or not 0 <= first <= last < count:
            return "start_ix..end_ix are no tokens of the text", f"{first}..{last} of {count} tokens"
        return "", None

    def _relations(
        self, key: str, entities: Mapping[str, Any], found: Mapping[str, _Label], position: Mapping[str, int]
    ) -> Iterator[tuple[MentionRelation, int]]:
        """Relations of an entity; what breaks the schema is counted, and kept where it still names two entities."""
        stated = entities[key].get("relations") or ()
        if not isinstance(stated, list | tuple):
            self._defect("relations", "not a list", key, stated)
            return
        for pair in stated:
            self._log.rows_read["relations"] += 1
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                self._defect("relations", "not a pair of name and target", key, pair)
                continue
            name, target = pair
            relation = _RELATIONS.get(name)
            if relation is None:
                self._defect("relations", "unknown relation", key, name)
            elif target in position:
                if (found[key].kind, found[target].kind) not in _ALLOWED_ENDS[relation]:
                    self._log.rows_read["relations against the schema (kept)"] += 1
                yield relation, position[target]
            elif target in entities:
                self._log.skip("relations", "target entity could not be read", 1)
            else:
                self._defect("relations", "target entity does not exist", key, target)

    def _defect(self, table: str, reason: str, key: str, value: object) -> None:
        shown = f"report {self._report_id}, entity {key}: {str(value)[:80]}"
        self._log.defect(table, reason, self._place, shown)


def _modify_relations_in_cycles(mentions: list[Mention]) -> int:
    """How many `modify` relations lie on a cycle ("small" modifies "large" modifies "small", or a word itself)."""
    targets = {
        index: {target for relation, target in mention.relations if relation is MentionRelation.MODIFY}
        for index, mention in enumerate(mentions)
        if mention.relations
    }
    try:
        TopologicalSorter(targets).prepare()
    except CycleError:
        return sum(source in _reached(target, targets) for source, ends in targets.items() for target in ends)
    return 0


def _reached(start: int, targets: Mapping[int, set[int]]) -> set[int]:
    reached, open_ends = {start}, [start]
    while open_ends:
        new = targets.get(open_ends.pop(), set()) - reached
        reached |= new
        open_ends += new
    return reached
