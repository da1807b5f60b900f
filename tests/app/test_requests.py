"""Requests: what is refused, in which words, and links that restore them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmet.app.requests import MAX_MATCHES, MAX_TEXT, RequestError, SearchRequest

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(deadline=None, max_examples=60)
@given(
    st.builds(
        SearchRequest,
        gallery=words,
        text=words,
        crop=words,
        cameras=st.lists(words, max_size=3).map(tuple),
        after=words,
        before=words,
        k=st.integers(1, MAX_MATCHES),
        by_track=st.booleans(),
    )
)
def test_a_link_restores_the_request(request):
    assert SearchRequest.from_link(f"#{request.link}") == request


@pytest.mark.parametrize("link", ["", "#", "unknown=1", "=", "&&", "%", "%ff%fe", "a;b"])
def test_links_of_nothing_are_empty_requests(link):
    assert SearchRequest.from_link(link).is_empty


@pytest.mark.parametrize("link", ["k=many", "k=-1", "k=²", "k=" + "9" * 5000, "&".join(["camera=x"] * 1000)])
def test_damaged_links_are_refused_in_words(link):
    with pytest.raises(RequestError, match="The link is damaged"):
        SearchRequest.from_link(link)


def test_a_picture_is_in_no_link():
    assert SearchRequest(picture=object()).link == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Type whom you are looking for"),
        ({"text": " \n\t "}, "Type whom you are looking for"),
        ({"text": "x" * 5_000}, "5,000 characters"),
        ({"text": "red", "k": 0}, "not 0"),
        ({"text": "red", "k": MAX_MATCHES + 1}, "Between 1 and"),
        ({"text": "red", "after": "noon"}, "“From”: 'noon' is not a time"),
        ({"text": "red", "before": "12:"}, "“To”"),
        ({"text": "red", "after": "1:00:00", "before": "59:00"}, "later"),
    ],
)
def test_unusable_requests_are_refused_in_words(fields, message):
    with pytest.raises(RequestError, match=message):
        SearchRequest(**fields).check()


def test_the_longest_sentence_is_taken():
    request = SearchRequest(text="x" * MAX_TEXT)
    request.check()
    assert not request.is_empty


def test_filters_of_a_gallery():
    request = SearchRequest(text="red", cameras=("gate",), after="0:30")
    assert request.filters == {"camera_id": ["gate"], "time": (30.0, None)}
    assert request.filter_words == ["camera gate", "from 0:30"]
    assert SearchRequest(text="red").filters == {"camera_id": None, "time": None}
