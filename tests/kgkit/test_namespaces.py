"""CURIEs and IRIs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgkit import namespaces as ns
from kgkit.errors import InputError

LOCAL = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)


@given(st.sampled_from(sorted(ns.PREFIXES)), LOCAL)
def test_an_iri_comes_back_from_its_curie(prefix: str, local: str) -> None:
    iri = ns.PREFIXES[prefix] + local
    assert ns.expand(ns.compress(iri)) == iri


@given(st.sampled_from(sorted(ns.PREFIXES)), st.from_regex(r"\A[A-Z0-9]{1,12}\Z"))
def test_a_curie_comes_back_from_its_iri(prefix: str, local: str) -> None:
    assert ns.compress(ns.expand(f"{prefix}:{local}")) == f"{prefix}:{local}"


def test_the_longest_namespace_wins() -> None:
    assert ns.compress("http://purl.bioontology.org/ontology/STY/T047") == "STY:T047"
    assert ns.compress("https://w3id.org/kgkit/rela/isa") == "rela:isa"
    assert ns.compress("http://purl.obolibrary.org/obo/HP_0002202") == "HP:0002202"


def test_an_iri_of_no_namespace_stays() -> None:
    assert ns.compress("https://example.org/x") == "https://example.org/x"


@pytest.mark.parametrize("wrong", ["UMLS:C0032227", "hp:0002202", "C0032227", "", ":x", "a b:c", "x:"])
def test_what_is_no_id_is_refused_with_the_known_prefixes(wrong: str) -> None:
    for function in (ns.expand, ns.iri_of):
        with pytest.raises(InputError) as error:
            function(wrong)
        assert str(error.value).startswith(f"{wrong!r} is not an id of a known prefix; ")
        assert all(prefix in str(error.value) for prefix in ns.PREFIXES)
        assert ("did you mean 'umls:C0032227'?" in str(error.value)) == (wrong == "UMLS:C0032227")


def test_other_obo_prefixes_and_whole_iris_are_ids_too() -> None:
    assert ns.expand("DOID:4") == "http://purl.obolibrary.org/obo/DOID_4"
    assert ns.compress("http://purl.obolibrary.org/obo/DOID_4") == "DOID:4"
    assert ns.expand("https://example.org/x") == "https://example.org/x"


@given(st.sampled_from(sorted(ns.PREFIXES)), st.text(min_size=1, max_size=12))
def test_any_local_part_survives_its_iri(prefix: str, local: str) -> None:
    try:
        iri = ns.iri_of(f"{prefix}:{local}")
    except UnicodeEncodeError:  # half a character is no text
        return
    assert iri.isascii()
    assert local.startswith("//") or ns.curie_of(iri) == f"{prefix}:{local}" or ns.iri_of(ns.curie_of(iri)) == iri


@pytest.mark.parametrize(
    ("sab", "code", "curie"),
    [
        ("HPO", "HP:0002202", "HP:0002202"),
        ("MONDO", "MONDO:0005002", "MONDO:0005002"),
        ("NCI", "C26686", "NCIT:C26686"),
        ("SNOMEDCT_US", "60046008", "SCTID:60046008"),
        ("RXNORM", "123", "bioportal:RXNORM/123"),
    ],
)
def test_codes_take_their_official_iri_else_bioportals(sab: str, code: str, curie: str) -> None:
    assert ns.code_curie(sab, code) == curie
    assert ns.compress(ns.expand(curie)) == curie


@given(st.text())
def test_plain_text_fits_file_names_and_iris(text: str) -> None:
    plain = ns.plain(text)
    assert plain == ns.plain(plain)
    assert len(plain) == len(text)
    assert set(plain) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-")
