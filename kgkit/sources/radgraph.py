"""RadGraph annotations to mentions: versions 1.0 and XL, the two-labeler test file, the package's output, lists.

Formats: RadGraph 1.0 (Jain et al. 2021) and RadGraph-XL (Delbrouck et al. 2024). `start_ix` and `end_ix` are
inclusive indices into the text split at single blanks; relations stand on their source entity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kgkit.errors import InputError
from kgkit.namespaces import plain
from kgkit.sources.base import IngestLog, NamedGraph, SourceTables
from kgkit.types import Certainty, Mention, MentionKind, MentionRelation, ReportMentions

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_V1_LABELS = MappingProxyType(
    {
        "ANAT-DP": (MentionKind.ANATOMY, Certainty.PRESENT),
        "OBS-DP": (MentionKind.OBSERVATION, Certainty.PRESENT),
        "OBS-U": (MentionKind.OBSERVATION, Certainty.UNCERTAIN),
        "OBS-DA": (MentionKind.OBSERVATION, Certainty.ABSENT),
    }
)
_XL_CERTAINTY = MappingProxyType(
    {
        "definitely present": Certainty.PRESENT,
        "uncertain": Certainty.UNCERTAIN,
        "definitely absent": Certainty.ABSENT,
    }
)
_ALLOWED_ENDS = MappingProxyType(
    {
        MentionRelation.LOCATED_AT: {(MentionKind.OBSERVATION, MentionKind.ANATOMY)},
        MentionRelation.SUGGESTIVE_OF: {(MentionKind.OBSERVATION, MentionKind.OBSERVATION)},
        MentionRelation.MODIFY: {(kind, kind) for kind in MentionKind},
    }
)


def read_radgraph(path: Path, log: IngestLog, corpus: str | None = None, release: str = "1") -> SourceTables:
    """Read one RadGraph JSON file, or every `*.json` of a folder.

    Args:
        path: A file or a folder.
        log: Where reports, entities and schema violations are counted.
        corpus: Name of the corpus; the file's or folder's name if not given.
        release: Release of the corpus.

    Raises:
        InputError: naming the file, report and entity that cannot be read.
    """
    if not path.exists():
        raise InputError("no such file or folder; expected RadGraph JSON", path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise InputError("no *.json file in this folder; expected RadGraph JSON", path)
    resolved = path.resolve()
    corpus = corpus or plain(resolved.name if path.is_dir() else resolved.stem).lstrip("._+-") or "radgraph"
    reports: list[ReportMentions] = []
    for file in files:
        log.files.append(file)
        reports += _read_file(file, log)
    graph = NamedGraph(f"{corpus}@{release}", f"RadGraph annotations of {corpus}")
    return SourceTables(name=corpus, release=release, graphs=(graph,), reports=tuple(_unique(reports, log)))


def _read_file(path: Path, log: IngestLog) -> Iterator[ReportMentions]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not readable as JSON ({error})", path) from error
    for report_id, record in _records(content, path):
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise InputError(f"report {report_id!r} has no text; expected RadGraph's text and entities", path)
        if _LONE_SURROGATE.search(report_id + record["text"]):
            raise InputError(f"report {report_id!r} holds half a character (a lone \\ud800..\\udfff)", path)
        log.rows_read["reports"] += 1
        if "entities" in record:
            yield _report(report_id, record["text"], record["entities"], path, log)
            continue
        labelers = sorted(key for key in record if key.startswith("labeler"))
        if not labelers:
            raise InputError(f"report {report_id!r} has neither entities nor labelers", path)
        for labeler in labelers:
            annotations = record[labeler]
            entities = annotations.get("entities", {}) if isinstance(annotations, dict) else None
            yield _report(f"{report_id}#{labeler}", record["text"], entities, path, log)


def _records(content: Any, path: Path) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        yield from content.items()
    elif isinstance(content, list):
        for position, item in enumerate(content):
            if not isinstance(item, dict) or len(item) != 1:
                raise InputError(f"item {position} is not an object with one report", path)
            yield str(position), next(iter(item.values()))
    else:
        raise InputError("expected an object or a list of reports at the top", path)


def _report(report_id: str, text: str, entities: Any, path: Path, log: IngestLog) -> ReportMentions:
    if not isinstance(entities, dict):
        raise InputError(f"report {report_id!r}: entities are not an object of id and entity", path)
    ends = list(accumulate(len(token) + 1 for token in text.split(" ")))  # one past each token's blank
    starts = [0, *ends[:-1]]
    position = {entity_id: index for index, entity_id in enumerate(entities)}
    kinds, stated = {}, {}
    for entity_id, entity in entities.items():
        where = f"report {report_id!r}, entity {entity_id!r}"
        try:
            kinds[entity_id] = _label(str(entity["label"]))
            first, last = int(entity["start_ix"]), int(entity["end_ix"])
            stated[entity_id] = [(str(name), str(target)) for name, target in entity.get("relations", ())]
        except KeyError as error:
            raise InputError(f"{where}: {error} is missing", path) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{where}: {error}", path) from error
        if not 0 <= first <= last < len(starts):
            raise InputError(f"{where}: tokens {first}..{last}, but the text has {len(starts)} tokens", path)
    mentions = []
    for entity_id, entity in entities.items():
        log.rows_read["entities"] += 1
        kind, certainty = kinds[entity_id]
        start, end = starts[int(entity["start_ix"])], ends[int(entity["end_ix"])] - 1
        relations = tuple(_relations(kind, stated[entity_id], kinds, position, log))
        mentions.append(Mention(text[start:end], start, end, kind, certainty, relations=relations))
    return ReportMentions(report_id, text, tuple(mentions))


def _label(label: str) -> tuple[MentionKind, Certainty]:
    """Kind and certainty of a label of either grammar.

    >>> _label("OBS-DA") == _label("Observation::definitely absent")
    True
    """
    if label in _V1_LABELS:
        return _V1_LABELS[label]
    parts = label.split("::")
    kind, certainty = parts[0], parts[-1]
    if kind.lower() not in list(MentionKind) or certainty not in _XL_CERTAINTY:
        known = ", ".join(_V1_LABELS)
        raise ValueError(f"label {label!r}; expected one of {known} or '<Anatomy|Observation>::<certainty>'")
    return MentionKind(kind.lower()), _XL_CERTAINTY[certainty]


def _relations(
    source: MentionKind,
    stated: Sequence[tuple[str, str]],
    kinds: Mapping[str, tuple[MentionKind, Certainty]],
    position: Mapping[str, int],
    log: IngestLog,
) -> Iterator[tuple[MentionRelation, int]]:
    """Relations of one entity; what breaks the schema is counted, and kept where it still names two entities."""
    for name, target in stated:
        log.rows_read["relations"] += 1
        if name not in list(MentionRelation):
            log.skip("relations", f"unknown relation {name!r}", 1)
            continue
        if target not in position:
            log.skip("relations", "target entity does not exist", 1)
            continue
        relation = MentionRelation(name)
        if (source, kinds[target][0]) not in _ALLOWED_ENDS[relation]:
            log.rows_read["relations against the schema (kept)"] += 1
        yield relation, position[target]


def _unique(reports: list[ReportMentions], log: IngestLog) -> Iterator[ReportMentions]:
    seen: dict[str, ReportMentions] = {}
    for report in reports:
        if report.report_id in seen:
            if seen[report.report_id] != report:
                raise InputError(f"two different reports share the id {report.report_id!r}", log.files[-1])
            log.skip("reports", "same report twice", 1)
            continue
        seen[report.report_id] = report
        yield report
