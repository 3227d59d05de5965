"""One concept on one page: whatever id is given, all that is said, and a picture in which nothing overlaps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyBboxPatch

from kgkit import namespaces as ns
from kgkit.errors import InputError, UnknownConceptError
from kgkit.graph.neighbourhood import draw_shown, neighbourhood_figure
from kgkit.graph.resolve import Known, classes_of, resolve
from kgkit.graph.show import ConceptPage, ShownDefinition, ShownMatch, ShownName, ShownRelation, show
from kgkit.graph.show_text import shown_text
from kgkit.graph.store import KnowledgeGraph
from kgkit.views.triples import open_triples


@pytest.fixture(scope="module")
def graph(union_kg_dir: Path) -> KnowledgeGraph:
    return KnowledgeGraph(union_kg_dir)


@pytest.mark.parametrize(
    ("given", "concepts", "steps"),
    [
        ("umls:C0032227", ["umls:C0032227"], []),
        ("HP:0002103", ["HP:0002103"], []),
        ("HP:0002202", ["umls:C0032227"], ["HP:0002202 is one of the ids of umls:C0032227"]),
        ("HP:0000001", ["umls:C0014013"], ["HP:0000001 is a code of umls:C0014013"]),
        ("bioportal:TST/x y", ["umls:C0032227"], ["bioportal:TST/x y is a code of umls:C0032227"]),
        ("umls:C0000001", ["umls:C0032227"], ["umls:C0000001 is retired (synonym): now umls:C0000002",
                                             "umls:C0000002 is retired (synonym): now umls:C0032227"]),
        ("umls:C0000003", ["umls:C0013687", "umls:C0032225"],
            ["umls:C0000003 is retired (split): now umls:C0013687 and umls:C0032225"]),
        ("umls:C0000004", [], ["umls:C0000004 is retired (deleted): nothing stands for it"]),
    ],
)  # fmt: skip
def test_any_id_leads_to_its_concepts(graph: KnowledgeGraph, given: str, concepts: list[str], steps: list[str]) -> None:
    found = resolve(graph, given)
    assert (list(found.concepts), list(found.steps)) == (concepts, steps)
    assert [page.concept for page in show(graph, given).concepts] == concepts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "umls:C0032226",
            "no concept 'umls:C0032226' in this graph; near ids: umls:C0032225, umls:C0032227, umls:C0041296",
        ),
        ("HP:9999999", "no concept 'HP:9999999' in this graph; near ids: HP:0002103"),
        ("SCTID:1", "no concept 'SCTID:1' in this graph; ids look like HP:0002103, with the prefixes HP, umls"),
        ("C0032227", "'C0032227' is no id; did you mean umls:C0032227?"),
        ("pleural EFFUSION", "'pleural EFFUSION' is no id; did you mean umls:C0032227?"),
        ("nothing", "'nothing' is no id; ids look like HP:0002103, with the prefixes HP, umls"),
    ],
)
def test_an_id_that_stands_for_nothing_is_said_with_a_hint(graph: KnowledgeGraph, given: str, message: str) -> None:
    with pytest.raises(UnknownConceptError) as error:
        show(graph, given)
    assert str(error.value) == f"{graph.folder}: {message}"


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])).map("bioportal:TST/".__add__))
def test_an_id_survives_its_iri(curie: str) -> None:
    assert ns.curie_of(ns.iri_of(curie)) == curie


def test_a_page_says_all_there_is(graph: KnowledgeGraph) -> None:
    (page,) = show(graph, "umls:C0032227").concepts
    heart = Known("umls:C0018802", "Congestive heart failure", ("T047",), is_concept=True)
    morphology = Known("HP:0002103", "Abnormal pleura morphology", (), is_concept=True)
    pleura = Known("umls:C0032225", "Pleura", ("T023",), is_concept=True)
    assert page == ConceptPage(
        concept="umls:C0032227",
        name="Pleural effusion",
        members=("HP:0002202", "umls:C0032227"),
        codes=("bioportal:TST/x y",),
        semantic_types=(("T046", "Pathologic Function", "Disorders"), ("T047", "Disease or Syndrome", "Disorders")),
        is_placeholder=False,
        names=(
            ShownName("Effusion, Pleural", "en", "best", ("TST@1",)),
            ShownName("Pleural effusion", "en", "best", ("HP@2026", "HPO@2025")),
            ShownName("Fluid around lungs", "en", "other", ("HPO@2025",)),
            ShownName("Pleural fluid", "en", "other", ("HP@2026",)),
            ShownName("PLEFF", "en", "abbreviation", ("TST@1",)),
            ShownName("derrame pleural", "es", "best", ("TST@1",)),
        ),
        definitions=(
            ShownDefinition("Too much fluid in the pleural cavity.", "en", "HP@2026"),
            ShownDefinition("Fluid in the pleural cavity.", "en", "HPO@2025"),
        ),
        relations=(
            ShownRelation("isa", True, morphology, ("HP@2026",)),
            ShownRelation("isa", True, Known("umls:C0013687", "Effusion", (), is_concept=True), ("HPO@2025", "TST@1")),
            ShownRelation("isa", False, Known("umls:C0014013", "Pleural empyema", (), is_concept=True), ("HPO@2025",)),
            ShownRelation("cause_of", False, heart, ("TST@1",)),
            ShownRelation("has_finding_site", True, pleura, ("TST@1",)),
        ),
        matches=(),
        attributes=(("SIDE", "left", "TST@1"),),
        mentions={"notes@1": {"absent": 1, "present": 1}},
        sources=(
            ("HP@2026", "HPO as OBO", 0),
            ("HPO@2025", "Human Phenotype Ontology", 0),
            ("TST@1", "Test vocabulary", 3),
            ("UMLS@2026AA", "UMLS Metathesaurus", 0),
            ("notes@1", "Two reports", 0),
        ),
    )  # fmt: skip
    (minted,) = show(graph, "umls:C9000001").concepts
    assert minted.is_placeholder
    (other,) = show(graph, "HP:0002103").concepts
    assert other.matches == (ShownMatch("close", pleura, "HP@2026"),)
    (seen_from_there,) = show(graph, "umls:C0032225").concepts
    assert [(match.kind, match.other.concept) for match in seen_from_there.matches] == [("close", "HP:0002103")]


def test_the_relations_of_a_page_are_those_of_the_triples_view(thorax_kg_dir: Path) -> None:
    """On the bundled graph, for the most connected concept and a few others; what is excluded is in the RDF alone."""
    graph = KnowledgeGraph(thorax_kg_dir)
    view = open_triples(graph.views)
    seen = pl.Series(view.triples[:, [0, 2]].ravel()).value_counts(sort=True)
    for row in [*seen[:3, 0], *seen[::1500, 0]]:
        facts = {
            (view.relations[relation], True, view.concepts[tail])
            for head, relation, tail in view.triples
            if head == row
        }
        facts |= {
            (view.relations[relation], False, view.concepts[head])
            for head, relation, tail in view.triples
            if tail == row
        }
        (page,) = show(graph, view.concepts[row]).concepts
        shown = {(fact.relation, fact.outgoing, fact.other.concept) for fact in page.relations}
        assert {fact for fact in shown if "_excludes_" not in fact[0]} == facts
        assert all(fact.vocabularies and fact.other.is_concept for fact in page.relations)


def test_ids_that_no_source_declares_stand_for_themselves(graph: KnowledgeGraph) -> None:
    assert classes_of(graph, ["HP:0002202", "NCIT:C1"]) == {
        "HP:0002202": Known("umls:C0032227", "Pleural effusion", ("T046", "T047"), is_concept=True),
        "NCIT:C1": Known("NCIT:C1"),
    }


def test_a_page_as_text_is_cut_and_says_so(graph: KnowledgeGraph) -> None:
    text = shown_text(show(graph, "umls:C0000001"), limit=2)
    for line in (
        "umls:C0000002 is retired (synonym): now umls:C0032227", "umls:C0032227  Pleural effusion",
        "  ids    HP:0002202, umls:C0032227", "  type   T046 Pathologic Function (Disorders)", "definition, HP@2026",
        "names, en (5)", "  ... and 3 more", "  derrame pleural  [TST@1]", "parents (2)",
        "  umls:C0013687  Effusion  [HPO@2025, TST@1]", "children (1)", "has_finding_site -> (1)", "<- cause_of (1)",
        "  SIDE = left  [TST@1]", "mentions in notes@1: 1 absent, 1 present",
        "  TST@1  Test vocabulary, licence level 3",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    assert "... and" not in shown_text(show(graph, "umls:C0000001"), limit=5)
    assert "placeholder" in shown_text(show(graph, "umls:C9000001"))


def page_with(graph: KnowledgeGraph, counts: list[int], words: int) -> ConceptPage:
    """A page with that many parents, children, concepts related to it and concepts it is related to."""
    (page,) = show(graph, "umls:C0032227").concepts
    ways = (("isa", True), ("isa", False), ("a_relation_with_quite_a_long_name", False), ("part_of", True))
    facts = [
        ShownRelation(
            relation, out, Known(f"umls:C{way}{index:06}", "interstitial pneumonia " * words, ("T047",)), ("A@1",)
        )
        for way, (relation, out) in enumerate(ways)
        for index in range(counts[way])
    ]
    return replace(page, relations=tuple(facts))


@settings(max_examples=12)
@given(st.lists(st.integers(0, 30), min_size=4, max_size=4), st.integers(1, 9))
def test_no_two_boxes_of_a_picture_overlap(union_kg_dir: Path, counts: list[int], words: int) -> None:
    figure, drawn = neighbourhood_figure(page_with(KnowledgeGraph(union_kg_dir), counts, words))
    (axes,) = figure.axes
    boxes = [patch.get_bbox() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == drawn + 1
    assert drawn == sum(map(min, counts, (5, 9, 8, 8)))
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(left < box.x0 and box.x1 < right and bottom < box.y0 and box.y1 < top for box in boxes)
    assert (figure.get_figwidth(), figure.get_figheight()) == pytest.approx((right - left, top - bottom))
    said = sorted(text.get_text() for text in axes.texts if text.get_text().startswith("... and"))
    left_out = [count - most for count, most in zip(counts, (5, 9, 8, 8), strict=True) if count > most]
    assert said == sorted(f"... and {count} more" for count in left_out)


def test_the_words_of_a_picture_stay_in_their_boxes(graph: KnowledgeGraph) -> None:
    figure, _ = neighbourhood_figure(page_with(graph, [5, 9, 8, 8], 4))
    (axes,) = figure.axes
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    words = [text.get_window_extent(renderer) for text in axes.texts]
    for word in words:
        inside = [box for box in boxes if box.overlaps(word)]
        assert len(inside) <= 1
        assert all(
            box.x0 <= word.x0 and word.x1 <= box.x1 and box.y0 <= word.y0 and word.y1 <= box.y1 for box in inside
        )
    assert not [pair for pair in combinations(words, 2) if pair[0].overlaps(pair[1])]


def test_a_neighbour_with_several_relations_has_one_box(graph: KnowledgeGraph) -> None:
    page = page_with(graph, [0, 0, 0, 1], 1)
    (fact,) = page.relations
    figure, drawn = neighbourhood_figure(replace(page, relations=(fact, replace(fact, relation="located_in"))))
    assert drawn == 1
    assert "part of, located in" in [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_a_picture_is_written_whole(graph: KnowledgeGraph, tmp_path: Path, ending: str) -> None:
    assert draw_shown(show(graph, "umls:C0032227"), tmp_path / f"a{ending}") == 5
    assert [path.name for path in tmp_path.iterdir()] == [f"a{ending}"]
    assert (tmp_path / f"a{ending}").stat().st_size > 10_000


def test_what_cannot_be_drawn_is_refused(graph: KnowledgeGraph, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not the ending of a picture: '\.jpg'; .*choices: \.pdf, \.png, \.svg"):
        draw_shown(show(graph, "umls:C0032227"), tmp_path / "a.jpg")
    with pytest.raises(InputError, match="stands for umls:C0013687, umls:C0032225; give the id of one concept"):
        draw_shown(show(graph, "umls:C0000003"), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_the_command_shows_and_draws(
    union_kg_dir: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = command("kgkit", "show", union_kg_dir, "HP:0002202", "--json", "--plot", tmp_path / "a.png")
    assert (code, err) == (0, f"5 neighbours drawn: {tmp_path / 'a.png'}\n")
    page = json.loads(out)["concepts"][0]
    assert page["relations"][0]["other"]["concept"] == "HP:0002103"
    code, out, err = command("kgkit", "show", union_kg_dir, "HP:0")
    assert (code, out) == (1, "")
    assert "near ids: HP:0002103" in err
