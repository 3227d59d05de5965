"""Search by letters and by both: against slow references; typos, plurals, abbreviations, filters, messages."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_thorax import CURIE, unit_rows, write_encoder
from typer.testing import CliRunner

import cli
from kgkit.encoder.artifact import NAME_COLUMNS, load_encoder
from kgkit.errors import InputError
from kgkit.search.build import build_index
from kgkit.search.concept_search import LONGEST_QUERY, ConceptSearch, open_search
from kgkit.search.filters import ConceptFilter
from kgkit.search.folding import fold, name_grams
from kgkit.search.fusion import FUSION, LETTERS, Fusion, best_positions
from kgkit.search.postings import breadths

QUERIES = ["fluid around lung", "effusion", "broken ribs", "PTX", "zzz", "left lung", "disease of heart", "ventricle"]


@pytest.fixture(scope="module")
def folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with its index."""
    copied = Path(shutil.copytree(tiny_encoder, tmp_path_factory.mktemp("hybrid") / "encoder"))
    build_index(copied)
    return copied


@pytest.fixture(scope="module")
def search(folder: Path) -> ConceptSearch:
    return open_search(folder)


def names_of(folder: Path) -> dict[str, set[str]]:
    encoder = load_encoder(folder)
    found = {concept: {encoder.name(concept)} for concept in encoder.concepts}
    for concept, name in encoder.names.select("concept", "name").iter_rows():
        found[concept].add(name)
    return found


def slow_breadths(parents: dict[str, list[str]]) -> dict[str, float]:
    """Breadths by the definition: who is reached by going up."""
    above = {concept: {each for each in its if each in parents} for concept, its in parents.items()}
    for _ in parents:
        above = {concept: its.union(*(above[each] for each in its)) for concept, its in above.items()}
    below = {concept: sum(concept in its for other, its in above.items() if other != concept) for concept in parents}
    return {concept: math.log1p(count) / math.log1p(len(parents)) for concept, count in below.items()}


def slow_lexical(folder: Path, query: str) -> dict[str, tuple[float, float, float]]:
    """Every concept by the definition: cosine with the best name, coverage by what is written around it, breadth."""
    encoder, names = load_encoder(folder), names_of(folder)
    strings = {fold(name) for its in names.values() for name in its}
    have = {string: name_grams(string) for string in strings}
    known = set().union(*have.values())
    idf = {gram: math.log((len(strings) + 1) / (1 + sum(gram in its for its in have.values()))) + 1 for gram in known}
    asked = name_grams(fold(query))
    highest = max(idf.values())
    whole = sum(idf.get(gram, highest) ** 2 for gram in asked)

    def cosine(string: str) -> float:
        norm = math.sqrt(sum(idf[gram] ** 2 for gram in have[string]))
        return sum(idf[gram] ** 2 for gram in asked & have[string]) / (norm * math.sqrt(whole))

    scores, table = {}, encoder.table
    broad = slow_breadths(dict(zip(table["concept"].to_list(), table["parents"].to_list(), strict=True)))
    for row in table.iter_rows(named=True):
        concept = row["concept"]
        around = set().union(*(have[fold(name)] for each in (concept, *row["parents"]) for name in names[each]))
        around |= name_grams(fold(row["definition"] or ""))
        covered = sum(idf[gram] ** 2 for gram in asked & around & known) / whole
        best = max(cosine(fold(name)) for name in names[concept])
        scores[concept] = (best, covered, broad[concept])
    return scores


def slow_letters(best: float, covered: float, broad: float) -> float:
    weighed = LETTERS.names * best + LETTERS.coverage * covered + LETTERS.breadth * broad
    return weighed if best + covered > 0 else 0.0


@pytest.mark.parametrize("query", ["fluid around lung", "left lung", "heart sac", "pneumonia of lobe", "rib"])
def test_lexical_scores_are_those_of_the_definition(folder: Path, search: ConceptSearch, query: str) -> None:
    expected = {concept: slow_letters(*parts) for concept, parts in slow_lexical(folder, query).items()}
    hits = search.search([query], 100, mode="lexical")[0]
    assert {hit.concept for hit in hits} == {concept for concept, score in expected.items() if score > 0}
    for hit in hits:
        assert hit.score == hit.lexical_score == pytest.approx(expected[hit.concept], abs=3e-6)
        assert hit.dense_score is None
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("query", ["fluid around lung", "broken ribs", "zzz", "left lung", "disease of heart", "Cor"])
def test_hybrid_scores_mix_both_sides(folder: Path, search: ConceptSearch, query: str) -> None:
    hits = search.search([query], 100)[0]
    vectors = {hit.concept: hit.score for hit in search.search([query], 100, mode="dense")[0]}
    letters = slow_lexical(folder, query)
    assert len(hits) == len(letters)  # fewer concepts than each side proposes, so all of them
    for hit in hits:
        best, covered, broad = letters[hit.concept]
        assert hit.dense_score == pytest.approx(vectors[hit.concept], abs=1e-5)
        assert hit.lexical_score == pytest.approx(slow_letters(best, covered, broad), abs=1e-5)
        mixed = FUSION.names * best + FUSION.coverage * covered + FUSION.breadth * broad
        assert hit.score == pytest.approx(FUSION.dense * hit.dense_score + mixed, abs=1e-5)


def test_the_hybrid_mode_reads_a_typo_as_the_word_it_stands_for(search: ConceptSearch) -> None:
    right, wrong = search.search(["pleural effusion", "plueral efusion"], 9)
    assert [(hit.concept, hit.score) for hit in wrong] == [(hit.concept, pytest.approx(hit.score)) for hit in right]


def test_the_weights_sum_to_one() -> None:
    for weights in (FUSION, LETTERS):
        assert sum(asdict(weights).values()) == pytest.approx(1)
    assert LETTERS.dense == 0
    one, half = np.ones(3, dtype=np.float32), np.full(3, 0.5, dtype=np.float32)
    np.testing.assert_allclose(Fusion(0.5, 0.25, 0.2, 0.05).mix(one, one, half, 0 * one), 0.85)
    np.testing.assert_allclose(Fusion(0, 0.5, 0.25, 0.25).letters(half, one, one), 0.75)


CHAINS = st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefz"), max_size=3), min_size=1)


@given(CHAINS)
def test_breadth_counts_what_lies_below_even_in_circles(parents: dict[str, list[str]]) -> None:
    concepts = sorted(parents)
    series = pl.Series([parents[concept] for concept in concepts], dtype=pl.List(pl.String))
    expected = slow_breadths(parents)
    np.testing.assert_allclose(breadths(series, concepts), [expected[each] for each in concepts], rtol=1e-6)


def test_of_concepts_with_one_name_the_broader_comes_first(tmp_path: Path) -> None:
    titles = ["tumor mass", "neoplasm", "skin neoplasm", "lung neoplasm"]
    vectors = unit_rows(4, 8, 1)
    folder = write_encoder(tmp_path / "e", vectors, titles=titles)
    table = pl.read_parquet(folder / "concepts.parquet")
    ids = table["concept"].to_list()
    table = table.with_columns(parents=pl.Series([[], [], [ids[1]], [ids[1]]], dtype=pl.List(pl.String)))
    table.write_parquet(folder / "concepts.parquet")
    rows = [(concept, "Tumours", "TST", False, "en", False, None) for concept in ids[:2]]
    pl.DataFrame(rows, schema=NAME_COLUMNS, orient="row").write_parquet(folder / "names.parquet")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["parts"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    build_index(folder)
    first, second = open_search(folder).search(["tumor"], 2, mode="lexical")[0]
    assert [first.concept, second.concept] == [ids[1], ids[0]]
    assert first.score > second.score


@pytest.mark.parametrize(
    ("query", "name", "read_as"),
    [("fluid around the heart", "pericardial effusion", None), ("PTX", "pneumothorax", None),
     ("pnuemothorax", "pneumothorax", "pneumothorax"), ("plueral efusion", "pleural effusion", "pleural effusion"),
     ("effusion, pleural", "pleural effusion", None), ("clavicles", "clavicle", "clavicle"),
     ("Haemothorax", "hemothorax", None), ("TRACHAEA", "trachea", None), ("cardiomegally", "cardiomegaly",
     "cardiomegaly"), ("lobe lower", "lower lobe", None)],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["hybrid", "lexical"])
def test_typos_order_plural_abbreviation_and_spelling(
    search: ConceptSearch, query: str, name: str, read_as: str | None, mode: str
) -> None:
    assert search.read_as(query) == read_as
    assert search.search([query], 1, mode=mode)[0][0].concept == CURIE[name]


def test_of_two_words_equally_near_the_one_is_meant_that_fits_the_others(tmp_path: Path) -> None:
    titles = ["spinal fusion", "joint fusion", "fusion of bones", "pleural effusion", "heart"]
    folder = write_encoder(tmp_path / "e", unit_rows(5, 8, 1), titles=titles)
    build_index(folder)
    search = open_search(folder)
    assert search.read_as("pleural efusion") == "pleural effusion"
    assert search.read_as("spinal efusion") == "spinal fusion"
    assert search.read_as("efusion") == "effusion"  # nearer to a whole name


def test_first_letters_find_a_name_that_has_no_abbreviation(search: ConceptSearch) -> None:
    hits = search.search(["HF"], 3, mode="lexical")[0]
    assert hits[0].concept == CURIE["heart failure"]
    assert search.read_as("HFX") is None  # capitals are no typo of a word


@pytest.mark.parametrize("word", ["rb", "x1y2z3", "qqqqqqqq", "lungs"])
def test_what_is_near_no_word_or_a_word_stays(search: ConceptSearch, word: str) -> None:
    assert search.read_as(word) is None


def test_hits_say_what_matched(folder: Path, search: ConceptSearch) -> None:
    names, encoder = names_of(folder), load_encoder(folder)
    for mode in ("hybrid", "dense", "lexical"):
        for hits in search.search(QUERIES, 20, mode=mode):
            for rank, hit in enumerate(hits, 1):
                assert hit.rank == rank
                assert hit.matched_name in names[hit.concept]
                assert (hit.name, hit.semantic_types) == (
                    encoder.name(hit.concept),
                    encoder.semantic_types(hit.concept),
                )
    for mode in ("hybrid", "dense", "lexical"):
        assert search.search(["tension ptx"], 1, mode=mode)[0][0].matched_name == "tension ptx"


@settings(max_examples=30)
@given(st.lists(st.sampled_from(QUERIES), min_size=1, max_size=6), st.sampled_from(["hybrid", "dense", "lexical"]))
def test_queries_are_answered_as_each_alone(search: ConceptSearch, queries: list[str], mode: str) -> None:
    for query, hits in zip(queries, search.search(queries, 5, mode=mode), strict=True):
        alone = search.search([query], 5, mode=mode)[0]
        # A text read with others differs by a rounding.
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in alone], atol=1e-5)
        assert [hit.concept for hit in search.search([query], 5, mode=mode)[0]] == [hit.concept for hit in alone]


@given(st.lists(st.floats(0, 1, width=32), max_size=30), st.integers(1, 40))
def test_the_best_positions_are_those_of_a_stable_sort(scores: list[float], count: int) -> None:
    array = np.array(scores, dtype=np.float32)
    assert best_positions(array, count).tolist() == np.argsort(-array, kind="stable")[:count].tolist()


@given(st.text(max_size=60).filter(str.strip))
@settings(max_examples=60)
def test_any_words_are_answered(search: ConceptSearch, text: str) -> None:
    for mode in ("hybrid", "lexical"):
        hits = search.search([text], 5, mode=mode)[0]
        assert all(0 <= hit.lexical_score <= 1 for hit in hits)
        assert len(hits) == 5 or mode == "lexical"


# Filters


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Concepts with names from several vocabularies and in several languages, without a text tower."""
    types = [["T047"], ["T023"], ["T033", "T047"], [], ["T023"]]
    folder = write_encoder(tmp_path_factory.mktemp("varied") / "e", unit_rows(5, 8, 1), types=types,
                           titles=["lung disease", "lung", "lung sign", "lung thing", "heart"])  # fmt: skip
    rows = [("test:000000", "Lungenkrankheit", "MSHGER", "de"), ("test:000000", "disease, lung", "MSH", "en"),
            ("test:000001", "lungs", "MSH", "en-GB"), ("test:000002", "signe", "MSHFRE", "fr"),
            ("test:000004", "cor", "TA", "la")]  # fmt: skip
    columns = [(concept, name, source, False, language, False, None) for concept, name, source, language in rows]
    schema = load_encoder(folder).names.schema
    pl.DataFrame(columns, schema=schema, orient="row").write_parquet(folder / "names.parquet")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["parts"] = {}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    build_index(folder)
    return folder


@pytest.mark.parametrize(
    ("keep", "rows"),
    [(ConceptFilter(), {0, 1, 2, 3}), (ConceptFilter(("T047",)), {0, 2}), (ConceptFilter(("T047", "T023")), {0, 1, 2}),
     (ConceptFilter(semantic_groups=("ANAT",)), {1}), (ConceptFilter(semantic_groups=("DISO",)), {0, 2}),
     (ConceptFilter(semantic_groups=("NONE",)), {3}), (ConceptFilter(sources=("MSH",)), {0, 1}),
     (ConceptFilter(languages=("en",)), {0, 1}), (ConceptFilter(languages=("EN-gb",)), {1}),
     (ConceptFilter(("T047",), sources=("MSH", "MSHFRE")), {0, 2}), (ConceptFilter(("T023",), ("DISO",)), set()),
     (ConceptFilter(("T047",), ("DISO",), ("MSH",), ("de",)), {0}), (ConceptFilter(sources=("TA",)), set())],
)  # fmt: skip
def test_filters_are_met_all_together(varied: Path, keep: ConceptFilter, rows: set[int]) -> None:
    hits = open_search(varied).search(["lung"], 10, keep=keep)[0]
    assert {int(hit.concept[-6:]) for hit in hits} == rows


def test_a_filter_holds_for_every_mode_and_for_neighbours(search: ConceptSearch) -> None:
    keep = ConceptFilter(("T047",), ("DISO",), ("TST",), ("en",))
    for mode in ("hybrid", "dense", "lexical"):
        every = search.search(["pneumonia"], 100, mode=mode)[0]
        kept = search.search(["pneumonia"], 100, mode=mode, keep=keep)[0]
        assert [hit.concept for hit in kept] == [hit.concept for hit in every if "T047" in hit.semantic_types]
        assert [hit.score for hit in kept] == [hit.score for hit in every if "T047" in hit.semantic_types]
    assert {hit.semantic_types for hit in search.neighbours(CURIE["rib"], 9, keep=ConceptFilter(("T046",)))} == {
        ("T046",)
    }


@pytest.mark.parametrize(
    ("keep", "message"),
    [(ConceptFilter(("T048",)), r"no concept has the semantic type 'T048'; did you mean 'T04\d'"),
     (ConceptFilter(semantic_groups=("DISOO",)), r"semantic group 'DISOO'; did you mean 'DISO'"),
     (ConceptFilter(sources=("TSTT",)), r"vocabulary 'TSTT'; did you mean 'TST'"),
     (ConceptFilter(languages=("e",)), r"language 'e'; .*choices: en")],
)  # fmt: skip
def test_unknown_values_are_refused_with_those_near(search: ConceptSearch, keep: ConceptFilter, message: str) -> None:
    for ask in (lambda: search.search(["lung"], 3, keep=keep), lambda: search.neighbours(CURIE["lung"], 3, keep=keep)):
        with pytest.raises(InputError, match=message):
            ask()


# Names that may not be searched


def test_names_left_out_are_found_by_nothing(folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(folder)
    names = encoder.names.filter(~pl.col("name").is_in(["fluid around the lung", "Wet-Lung"]))
    build_index(folder, names=names, out=tmp_path / "index")
    without = open_search(folder, tmp_path / "index")
    for mode in ("hybrid", "dense", "lexical"):
        matched = {hit.matched_name for hits in without.search(["fluid around the lung", "Wet-Lung"], 100, mode=mode)
                   for hit in hits}  # fmt: skip
        assert not matched & {"fluid around the lung", "Wet-Lung"}
        assert open_search(folder).search(["Wet-Lung"], 1, mode=mode)[0][0].matched_name == "Wet-Lung"
    # Its definition is "Or wet lung: ..."; what may not be searched may not be read there either.
    hits = {hit.concept: hit for hit in without.search(["wet-lung"], 100, mode="lexical")[0]}
    assert hits[CURIE["pulmonary edema"]].score < 0.6


# Without a text tower; messages


def test_an_encoder_without_text_compares_letters_and_says_so(varied: Path) -> None:
    search = open_search(varied)
    assert not search.reads_text
    assert [hit.concept for hit in search.search(["lungenkrankheit"], 1)[0]] == ["test:000000"]
    for mode in ("hybrid", "dense"):
        with pytest.raises(InputError, match=f"without a text tower, so mode '{mode}' cannot .*'lexical' compares"):
            search.search(["lung"], 3, mode=mode)
    assert len(search.neighbours("test:000000", 9)) == 4
    done = CliRunner().invoke(cli.kgkit, ["search", str(varied), "lung"])
    assert done.exit_code == 0
    assert "note: this encoder has no text tower; names were compared by letters alone" in done.stderr


def test_empty_and_endless_queries_are_numbered(search: ConceptSearch) -> None:
    with pytest.raises(InputError, match="query 2 of 3 is empty"):
        search.search(["lung", " \n", "rib"], 3)
    with pytest.raises(InputError, match=r"query 1 of 1 has 1,048,576 characters, more than 2,000 .*kgkit link"):
        search.search(["a" * (1 << 20)], 3)
    assert search.search(["lung " * (LONGEST_QUERY // 5)], 3)[0]
    assert search.search([], 3) == []


def test_unknown_modes_are_refused(search: ConceptSearch) -> None:
    with pytest.raises(InputError, match="unknown mode 'denze'; did you mean 'dense'"):
        search.search(["lung"], mode="denze")


def test_letters_that_no_name_has_find_nothing(search: ConceptSearch) -> None:
    assert search.search(["♥♥", "Ω"], 5, mode="lexical") == [[], []]
    assert len(search.search(["♥♥"], 5)[0]) == 5  # by vectors something is always nearest


# The command line


def run(folder: Path, *arguments: str, given: bytes = b"") -> str:
    done = CliRunner().invoke(cli.kgkit, ["search", str(folder), *arguments], input=given)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_queries_come_from_arguments_a_file_or_standard_input(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_bytes("\ufeffrib\nplueral efusion\n".encode())
    for arguments, typed in ((("rib", "plueral efusion"), b""), (("--file", str(tmp_path / "queries.txt")), b""),
                             (("--file", "-"), b"rib\r\nplueral efusion")):  # fmt: skip
        found = json.loads(run(folder, *arguments, "-k", "2", "--json", given=typed))
        assert [answer["query"] for answer in found] == ["rib", "plueral efusion"]
        assert [answer["read_as"] for answer in found] == [None, "pleural effusion"]
        assert [answer["hits"][0]["concept"] for answer in found] == [CURIE["rib"], CURIE["pleural effusion"]]
        assert all(len(answer["hits"]) == 2 for answer in found)
        assert found[0]["hits"][0].keys() == {"rank", "concept", "name", "semantic_types", "score", "matched_name",
                                              "dense_score", "lexical_score"}  # fmt: skip


def test_explain_shows_the_name_and_both_scores(folder: Path) -> None:
    shown = run(folder, "tension ptx", "wetlung", "-k", "1", "--explain")
    assert "by the name 'tension ptx', dense 0.9" in shown
    assert ", lexical 0.9" in shown
    assert "by the name 'tension ptx', lexical 0.9" in run(folder, "tension ptx", "--mode", "lexical", "--explain")


def test_filters_may_be_repeated(folder: Path) -> None:
    found = json.loads(run(folder, "lung", "-k", "99", "--json", "--semantic-type", "T023", "--semantic-type", "T047",
                           "--semantic-group", "DISO", "--source", "TST", "--language", "en"))  # fmt: skip
    assert {tuple(hit["semantic_types"]) for hit in found[0]["hits"]} == {("T047",)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "no query; give some words, a file of them with --file, or"), ([""], "query 1 of 1 is empty"),
     (["lung", "-k", "0"], "k is 0, expected 1 or more"), (["lung", "--source", "TS"], "vocabulary 'TS'"),
     (["--file", "none.txt"], "none.txt: cannot be read (No such file or directory)"), (["x" * 3000], "3,000 char"),
     (["lung", "--mode", "both"], "unknown mode 'both'")],
)  # fmt: skip
def test_bad_input_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    command = [str(Path(sys.executable).parent / "kgkit"), "search", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_file_that_is_no_text_is_named_with_its_line(folder: Path) -> None:
    done = CliRunner().invoke(cli.kgkit, ["search", str(folder), "--file", "-"], input=b"rib\nh\xe4morrhage\n")
    assert done.exit_code == 1
    assert str(done.exception) == "standard input, line 2: not UTF-8"
