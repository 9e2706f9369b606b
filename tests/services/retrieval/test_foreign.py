"""Answers of other owners' services: what is malformed, too large or not asked for is refused before it is used."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.errors import DataRefused
from services._runtime.errors import OtherBundle
from services.retrieval.foreign import Asked, checked
from tests.services.retrieval.owners import good_answer

CODE, ADDRESS = bytes(8), "north.example:443"
ASKED = Asked("north", ADDRESS, CODE, pb.MODALITY_S2, 10, "bundle")
REQUEST = pb.SearchRequest(code=CODE, bundle_id="bundle", target_modality=pb.MODALITY_S2, page_size=10)
Spoil = Callable[[pb.SearchResponse], object]


def setting(field: str, value: object, hit: int = 1) -> Spoil:
    """Sets ``hit.<field>`` or ``hit.patch.<field>``."""

    def spoil(answer: pb.SearchResponse) -> None:
        target = answer.hits[hit].patch if field in pb.PatchMetadata.DESCRIPTOR.fields_by_name else answer.hits[hit]
        setattr(target, field, value)

    return spoil


def footprint(**values: float) -> Spoil:
    return lambda answer: [setattr(answer.hits[1].patch.footprint, name, value) for name, value in values.items()]


def test_a_good_answer_is_taken_and_its_address_is_ours() -> None:
    answer = good_answer(REQUEST, "north")
    answer.hits[0].owner_address = "evil.example:1"
    found = checked(answer.SerializeToString(), ASKED)
    assert [(hit.distance, hit.patch.patch_id, hit.owner_address) for hit in found.hits] == [
        (3, "patch-b", ADDRESS),
        (5, "patch-a", ADDRESS),
    ]


def test_fields_that_we_do_not_know_are_dropped() -> None:
    unknown = b"\xfa\x7f\x03abc"  # field 2047
    raw = good_answer(REQUEST, "north").SerializeToString()
    assert checked(raw + unknown, ASKED).SerializeToString() == checked(raw, ASKED).SerializeToString()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (setting("owner", "west"), "hit 1: expected a patch of north; got one of 'west'"),
        (setting("owner", ""), "expected a patch of north"),
        (lambda answer: setattr(answer, "owner", "west"), "it answers as 'west'"),
        (setting("distance", 2), "ordered by .distance, patch id."),
        (lambda answer: answer.hits.append(answer.hits[1]), "each once"),
        (setting("distance", 5, 0), "ordered by"),
        (setting("distance", 65), "distance of 0 to 64"),
        (lambda answer: setattr(answer, "distance_step", 65), "rounded to 1 to 64 bits"),
        (lambda answer: setattr(answer, "distance_step", 2), "in steps of 2; got 3"),
        (setting("modality", pb.MODALITY_S1), "expected the sensor that was asked for"),
        (setting("modality", 77), "expected the sensor that was asked for"),
        (setting("thumbnail_png", b"x"), "expected no thumbnail_png"),
        (setting("code", b"x" * 8), "expected no code, as none was asked for"),
        (setting("patch_id", ""), "expected a patch id; got none"),
        (setting("patch_id", "x" * 129), "patch_id of at most 128 printable characters"),
        (setting("patch_id", "patch\x1b[2J"), "printable"),
        (setting("country", "F" * 65), "country of at most 64"),
        (setting("s1_name", "a\nb"), "s1_name of at most 128 printable"),
        (setting("split", "secret"), "expected a split of"),
        (lambda answer: answer.hits[1].patch.labels.append("No class"), "labels of the 19 classes"),
        (lambda answer: answer.hits[1].patch.labels.extend(["Pastures"] * 19), "labels of the 19 classes"),
        (footprint(lat_min=float("nan")), "NaN or infinity"),
        (footprint(lon_max=float("inf")), "NaN or infinity"),
        (footprint(lon_min=-181.0), "longitudes of -180 to 180"),
        (footprint(lat_min=62.0), "latitudes of -90 to 90 in order"),
        (lambda answer: setattr(answer.hits[1].patch.acquired_s2, "seconds", 2**60), "between the years 1 and 9999"),
        (lambda answer: setattr(answer, "query_code", bytes(7)), "the code that was asked for"),
        (lambda answer: setattr(answer, "candidates", 2**63), "candidates"),
        (lambda answer: setattr(answer, "recall", float("nan")), "a recall of 0 to 1"),
        (lambda answer: setattr(answer, "recall", 1.5), "a recall of 0 to 1"),
    ],
)
def test_what_is_wrong_is_named(spoil: Spoil, words: str) -> None:
    answer = good_answer(REQUEST, "north")
    spoil(answer)
    with pytest.raises(DataRefused, match=words):
        checked(answer.SerializeToString(), ASKED)


@pytest.mark.parametrize("bundle_id", ["another", ""])
def test_codes_of_another_bundle_are_never_mixed(bundle_id: str) -> None:
    answer = good_answer(REQUEST, "north")
    answer.bundle_id = bundle_id
    with pytest.raises(OtherBundle, match="bundle"):
        checked(answer.SerializeToString(), ASKED)


def test_more_hits_than_asked_are_counted_before_they_are_built() -> None:
    asked = Asked("north", ADDRESS, CODE, pb.MODALITY_S2, 1000, "bundle")
    with pytest.raises(DataRefused, match="at most 1000 hits; the answer holds more fields"):
        checked(b"\x0a\x00" * 1_000_000, asked)
    with pytest.raises(DataRefused, match="at most 24576 bytes for 10 hits"):
        checked(b"\x0a\x00" * 1_000_000, ASKED)
    answer = good_answer(REQUEST, "north")
    for number in range(9):
        answer.hits.add().CopyFrom(answer.hits[1])
        answer.hits[-1].patch.patch_id = f"patch-c{number}"
    with pytest.raises(DataRefused, match="at most 10 hits; got 11"):
        checked(answer.SerializeToString(), ASKED)


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05ab", b"no message at all"])
def test_bytes_that_are_no_answer_are_refused(raw: bytes) -> None:
    with pytest.raises(DataRefused, match="expected a SearchResponse"):
        checked(raw, ASKED)


def test_an_empty_answer_does_not_name_its_bundle() -> None:
    with pytest.raises(OtherBundle, match="does not name its bundle"):
        checked(b"", ASKED)
