"""Checks of the answers of other owners' services: whatever comes, it is small, consistent and asked for, or refused.

An answer is bytes of a stranger. Fields are counted on the wire before anything is built; then every value that goes to
our callers is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.data.labels import CLASSES, INDEX
from eoforge.data.split import SPLITS
from eoforge.errors import DataRefused, LimitExceeded, UsageError
from services._runtime import wire
from services._runtime.errors import OtherBundle
from services.retrieval.owners import HEAD_BYTES, HIT_BYTES

HIT_ELEMENTS, HEAD_ELEMENTS = 64, 64
"""Upper bounds of the fields of a hit, its metadata included, and of what an answer holds besides hits."""
MAX_TEXT = {"patch_id": 128, "s1_name": 128, "country": 64, "mgrs_tile": 16}
"""Most characters of the texts of a patch."""
HIT_FIELDS = frozenset(("patch", "modality", "distance", "owner", "owner_address"))
"""Fields of a hit of another owner; its address is replaced by ours."""
MAX_ANSWER_DEPTH = 8
MAX_PATCHES = 1 << 48
"""Most patches that an owner may say it has, so that sums stay numbers of the API."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Question to another owner, by which its answer is judged.

    Attributes:
        owner: Name of the owner.
        address: Address that its hits get.
        code: Packed code.
        target: Sensor of the hits, as its number.
        k: Number of hits.
        bundle_id: Bundle that made the code.
    """

    owner: str
    address: str
    code: bytes
    target: int
    k: int
    bundle_id: str


def checked(raw: bytes, asked: Asked) -> pb.SearchResponse:
    """Answer of another owner, of which every part was checked; the address of its hits is ours.

    Raises:
        DataRefused: The answer is too large or malformed, or not an answer to what was asked.
        OtherBundle: Its codes come from another bundle.
    """
    if len(raw) > (most := HEAD_BYTES + HIT_BYTES * asked.k):
        raise DataRefused(f"expected at most {most} bytes for {asked.k} hits; got {len(raw)}")
    try:
        limits = wire.Limits(HEAD_ELEMENTS + HIT_ELEMENTS * asked.k, MAX_ANSWER_DEPTH)
        response, _ = wire.parse(raw, pb.SearchResponse, limits)
    except LimitExceeded as error:
        raise DataRefused(f"expected at most {asked.k} hits; the answer holds more fields than those have") from error
    except UsageError as error:
        raise DataRefused("expected a SearchResponse; the bytes are none") from error
    answer: pb.SearchResponse = response
    answer.DiscardUnknownFields()
    if answer.bundle_id != asked.bundle_id:
        raise OtherBundle("its codes come from another bundle" if answer.bundle_id else "it does not name its bundle")
    if answer.owner != asked.owner:
        raise DataRefused(f"expected the owner {asked.owner}; it answers as {answer.owner[:63]!r}")
    if answer.query_code != asked.code:
        raise DataRefused("expected the code that was asked for; the answer is to another one")
    if len(answer.hits) > asked.k:
        raise DataRefused(f"expected at most {asked.k} hits; got {len(answer.hits)}")
    if answer.candidates > MAX_PATCHES:
        raise DataRefused(f"expected at most {MAX_PATCHES} candidates; got {answer.candidates}")
    if not 0.0 <= answer.recall <= 1.0:  # so is NaN
        raise DataRefused("expected a recall of 0 to 1; got another number")
    bits, step = 8 * len(asked.code), max(answer.distance_step, 1)
    if step > bits:
        raise DataRefused(f"expected distances rounded to 1 to {bits} bits; got {step}")
    before = (-1, "")
    for number, hit in enumerate(answer.hits):
        try:
            before = _checked_hit(hit, asked, before, bits, step)
        except DataRefused as error:
            raise DataRefused(f"hit {number}: {error}") from error
        hit.owner_address = asked.address
    return answer


def _checked_hit(hit: pb.Hit, asked: Asked, before: tuple[int, str], bits: int, step: int) -> tuple[int, str]:
    """Distance and patch id of a hit that comes after ``before``."""
    if hit.owner != asked.owner:
        raise DataRefused(f"expected a patch of {asked.owner}; got one of {hit.owner[:63]!r}")
    if hit.modality != asked.target:
        raise DataRefused("expected the sensor that was asked for; got another one")
    if hit.distance > bits or hit.distance % step:
        raise DataRefused(f"expected a distance of 0 to {bits} in steps of {step}; got {hit.distance}")
    if more := {field.name for field, _ in hit.ListFields()} - HIT_FIELDS:
        raise DataRefused(f"expected no {min(more)}, as none was asked for; got one")
    _check_patch(hit.patch)
    place = (hit.distance, hit.patch.patch_id)
    if place <= before:
        raise DataRefused("expected hits ordered by (distance, patch id), each once; these are not")
    return place


def _check_patch(patch: pb.PatchMetadata) -> None:
    for name, most in MAX_TEXT.items():
        value = getattr(patch, name)
        if len(value) > most or not (value.isprintable() or not value):
            raise DataRefused(f"expected {name} of at most {most} printable characters; got another text")
    if not patch.patch_id:
        raise DataRefused("expected a patch id; got none")
    if patch.split and patch.split not in SPLITS:
        raise DataRefused(f"expected a split of {', '.join(SPLITS)}; got another text")
    if len(patch.labels) > len(CLASSES) or any(label not in INDEX for label in patch.labels):
        raise DataRefused("expected labels of the 19 classes; got others")
    if patch.HasField("footprint"):
        box = patch.footprint
        if not all(map(isfinite, (box.lon_min, box.lon_max, box.lat_min, box.lat_max))):
            raise DataRefused("expected a footprint in degrees; got NaN or infinity")
        if not (-180 <= min(box.lon_min, box.lon_max) <= max(box.lon_min, box.lon_max) <= 180):
            raise DataRefused("expected longitudes of -180 to 180; got others")
        if not -90 <= box.lat_min <= box.lat_max <= 90:
            raise DataRefused("expected latitudes of -90 to 90 in order; got others")
    for name in ("acquired_s1", "acquired_s2"):
        try:
            getattr(patch, name).ToDatetime()
        except (ValueError, OverflowError) as error:
            raise DataRefused(f"expected {name} between the years 1 and 9999; got another time") from error
