"""Selection of objects for tars, and the content of tars."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_defs.adapters.object_store.tar import MAX_MEMBER_BYTES, MAX_MEMBERS, MAX_TAR_BYTES, MIN_MEMBERS, fits, group_into_tars, tar
from analytics_defs.core.storage.object_keys import event_key
from analytics_defs.ports import StoredObject
from tests.adapters.object_store.snowball_s3 import members

HOUR = "2024-01-15T10"
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300)
BLOBS = st.builds(
    StoredObject,
    st.text(max_size=300).map(lambda text: event_key(HOUR, text)),
    st.binary(max_size=2_000),
    VALUES,
    st.dictionaries(st.sampled_from(["eventtype", "timestamp", "eventid", "source", "batch"]), VALUES),
)


def object_(key: str = "events/1.json", body: bytes = b"{}", content_type: str = "application/json", **metadata: str) -> StoredObject:
    return StoredObject(key, body, content_type, metadata)


@given(st.lists(BLOBS, max_size=20))
def test_a_tar_contains_every_object_unchanged(objects: list[StoredObject]) -> None:
    assert members(tar(objects)) == objects


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, MAX_MEMBER_BYTES])
def test_objects_of_every_size_are_complete_in_a_tar(size: int) -> None:
    objects = [object_(f"events/{number}.json", os.urandom(size)) for number in range(3)]
    assert members(tar(objects)) == objects


def test_the_length_of_a_record_counts_its_own_digits() -> None:
    """Around 10, 100 and 1,000 bytes, the length of a record has one more digit."""
    objects = [object_(f"events/{size}.json", a="x" * size) for size in [*range(1, 110), *range(930, 1_010)]]
    assert members(tar(objects)) == objects


def test_the_same_objects_give_the_same_bytes_and_end_with_two_empty_blocks() -> None:
    packed = tar([object_(), object_("events/2.json", b"x" * 512)])
    assert packed == tar([object_(), object_("events/2.json", b"x" * 512)])
    assert packed.endswith(b"x" * 512 + bytes(1024))
    assert not packed.endswith(bytes(1025))


@given(st.text(max_size=400))
def test_the_object_of_every_id_fits(event_id: str) -> None:
    assert fits(object_(event_key(HOUR, event_id)))


@pytest.mark.parametrize(
    "odd",
    [
        *(
            object_(key)
            for key in ("", "/a", "a/", "a//b", "a/./b", "a/../b", "..", ".", "a b", "Ü", "a\nb", "a\x00", "x" * 256, "x/" * 600)
        ),
        object_(body=bytes(MAX_MEMBER_BYTES + 1)),
        *(object_(content_type=text) for text in ("", " text/plain", "text/plain ", "Ü")),
        *(object_(batch=text) for text in ("", " a", "a ", "a\nb", "Ü")),
        StoredObject("a", b"", "text/plain", {"cache-control": "no-cache"}),
        StoredObject("a", b"", "text/plain", {"Content-Type": "text/html"}),
        StoredObject("a", b"", "text/plain", {"a=b": "c"}),
    ],
    ids=lambda odd: f"{odd.key[:20]!r} {odd.content_type!r} {dict(odd.metadata)}",
)
def test_an_object_that_a_tar_could_change_does_not_fit(odd: StoredObject) -> None:
    assert not fits(odd)
    tars, singles = group_into_tars([odd, *(object_(f"events/{number}.json") for number in range(MIN_MEMBERS))])
    assert singles == [odd]
    assert len(tars) == 1


SIZES = st.lists(st.sampled_from([0, 1, 400, 5_000, MAX_MEMBER_BYTES, MAX_MEMBER_BYTES + 1]), max_size=400)


@given(SIZES)
def test_every_object_is_in_one_small_tar_or_put_by_itself(sizes: list[int]) -> None:
    objects = [object_(f"events/{number}.json", bytes(size)) for number, size in enumerate(sizes)]
    tars, singles = group_into_tars(objects)
    assert sorted(member.key for group in [*tars, singles] for member in group) == sorted(member.key for member in objects)
    assert all(MIN_MEMBERS <= len(group) <= MAX_MEMBERS and len(tar(group)) <= MAX_TAR_BYTES + 2 * 512 for group in tars)


def test_a_full_tar_is_followed_by_another() -> None:
    tars, singles = group_into_tars([object_(f"events/{number}.json") for number in range(2 * MAX_MEMBERS + 1)])
    assert ([len(group) for group in tars], len(singles)) == ([MAX_MEMBERS, MAX_MEMBERS], 1)
