"""Scrubbing: excluded terms and what tells a place go, and the text stays fluent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdistill.sensitive.scrub import find_terms, number_forms, scrub, scrub_identifying

TERMS = ("storagetanks", "storage tanks", "airport", "Port", "parking_lot", "RailwayStation", "church")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("A satellite image of storage tanks", ""),
        ("Houses stand in rows. A large airport lies beside them. Trees.", "Houses stand in rows. Trees."),
        ("Two ports lie at a lake.", ""),
        ("A roof of 12.5 m. The airport's runway crosses fields! Fields?", "A roof of 12.5 m. Fields?"),
        ("A field\nnear a port\nwith trees", "A field with trees"),
        ("airports", ""),
    ],
)
def test_the_sentence_that_holds_a_term_goes(text, left):
    assert scrub(text, TERMS) == left


@pytest.mark.parametrize(
    "spelt",
    "storagetanks StorageTanks storage-tank storage_tanks STORAGE\N{NO-BREAK SPACE}TANK storagetank airports AIRPORT "
    "Airport's airport_12 airport12 railwaystation railway\N{EN DASH}stations Ports churches Parking\nLots".split(" "),
)
def test_every_spelling_is_found(spelt):
    assert find_terms(f"near {spelt}, a road", TERMS)
    assert not find_terms(scrub(f"near {spelt}, a road", TERMS), TERMS)


@pytest.mark.parametrize(
    "text", ["A report on transport and support.", "Seaports", "a tank in storage", "churchyard", "  two  blanks\n"]
)
def test_text_without_a_term_is_left_alone(text):
    assert not find_terms(text, TERMS)
    assert scrub(text, TERMS) == text


def test_name_that_is_kept_may_hold_a_term():
    text = "A railway station beside a railway"
    assert scrub(text, ["railway"], keep=["railway_station"]) == ""
    assert scrub("A railway station.", ["railway"], keep=["railway_station"]) == "A railway station."
    assert find_terms(text, ["railway"], keep=["railway_station"]) == ["railway"]


def test_no_terms_change_nothing():
    assert scrub("a port", []) == "a port"
    assert find_terms("a port", ["", " - "]) == []


words = st.sampled_from(
    "A a an the two large green and or , . ; ( ) of near with beside shows is river trees houses old farm "
    "airport Airports storage tanks storagetank storage-tank port port-side parking lot railway_station".split()
)
texts = st.lists(words, max_size=14).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_no_term_is_left_and_no_word_is_new(text):
    left = scrub(text, TERMS)
    assert not find_terms(left, TERMS)
    assert scrub(left, TERMS) == left
    assert left == text or set(left.split()) < set(text.split())


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=8), max_size=4))
def test_any_text_and_any_terms_come_through(text, terms):
    assert not find_terms(scrub(text, terms), terms)


@pytest.mark.parametrize("term", ["s", "S-", "ss", "es", "ies", "ves", "is"])
def test_a_term_of_a_few_letters_has_no_empty_singular(term):
    """An empty form would be found everywhere and never go."""
    assert all(number_forms(term.strip("-")))
    assert scrub("3 roads", [term]) == "3 roads"
    assert not find_terms("", [term])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("An aerial view of Paris. Roofs.", "Roofs."),
        ("The Seine river crosses the city", ""),
        ("Heathrow Airport is large", ""),
        ("A field at 48.8566, 2.3522 beside a road. A barn.", "A barn."),
        ("A field at 48°51'24\"N 2°21'03\"E beside a road", ""),
        ("A field at 31U DQ 48251 11932.", ""),
        ("A field at 31N 448251 5411932.", ""),
        ("Houses in Rio de Janeiro near Lake Geneva.", ""),
        ("The tile (EPSG:32631) shows 12 houses.", ""),
        ("A river, 12345678.", ""),
        ("A road. Several cars. The Louvre is there.", "A road. Several cars."),
    ],
)
def test_what_tells_a_place_goes(text, left):
    assert scrub_identifying(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "RGB image from Sentinel-2 of fields",
        "Two rivers of 12.5 m width. Green fields.",
        "A satellite image of dense residential",
        "12 houses, 3 roads and 250 trees",
    ],
)
def test_plain_captions_stay(text):
    assert scrub_identifying(text) == text


def test_known_name_may_stay():
    assert scrub_identifying("A part of EuroSAT", keep=["EuroSAT"]) == "A part of EuroSAT"
