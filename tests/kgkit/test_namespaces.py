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


@pytest.mark.parametrize("wrong", ["UMLS:C0032227", "C0032227", "", ":x", "https://example.org/x"])
def test_an_unknown_prefix_is_refused_with_the_known_ones(wrong: str) -> None:
    with pytest.raises(InputError) as error:
        ns.expand(wrong)
    assert str(error.value).startswith(f"{wrong!r} is not an id of a known prefix; known: CHEBI, CL, ")
    assert all(prefix in str(error.value) for prefix in ns.PREFIXES)


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
