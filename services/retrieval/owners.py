"""Settings about other owners: upstreams, whose archives are asked, and partners, who ask this archive."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.client.base import is_loopback
from eoforge.errors import did_you_mean
from eoforge.hashing.lengths import MAX_CODE_BITS
from eoforge.index.search import MAX_K

OWNER_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
EVERY_HUB = "*"
"""Partner that stands for every caller without an entry of its own whose query says that it comes from an owner."""
HIT_BYTES, HEAD_BYTES = 2048, 4096
"""Upper bounds of a serialised hit without picture, and of what an answer holds besides hits."""
FIELDS = frozenset({f.name for f in pb.PatchMetadata.DESCRIPTOR.fields} - {"patch_id"} | {"candidates"})
"""What an owner may let leave besides patch id and distance: metadata of hits, and how many patches a filter passes."""
FILTERS = frozenset(f.name for f in pb.Filter.DESCRIPTOR.fields)
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Upstream(BaseModel):
    """Archive of another owner that this service asks."""

    model_config = _FROZEN

    owner: str = Field(pattern=OWNER_PATTERN)
    address: str = Field(max_length=300)
    public_address: str = Field(default="", max_length=300)
    """Address that hits name for pictures and pixels, where callers reach the owner by another one."""
    tls: bool | None = None
    """None: TLS, except to the loopback address."""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    deadline_seconds: float = Field(default=2.0, gt=0, le=60)
    hedge_seconds: float | None = Field(default=None, gt=0, le=60)
    """Time after which a second call is made over a connection of its own; the first answer counts."""
    attempts: int = Field(default=3, ge=1, le=10)
    max_answer_bytes: int = Field(default=HEAD_BYTES + MAX_K * HIT_BYTES, ge=HEAD_BYTES, le=64 << 20)
    max_calls: int = Field(default=32, ge=1, le=4096)
    skip_after: int = Field(default=5, ge=1, le=1000)
    """Time-outs in a row after which the owner is not asked for ``skip_seconds``."""
    skip_seconds: float = Field(default=30.0, gt=0, le=3600)

    @field_validator("address", "public_address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value and not _ADDRESS.fullmatch(value):
            shown = "a text with a user, or more" if "@" in value else repr(value[:80])  # it may hold a password
            raise ValueError(f"expected HOST:PORT; got {shown}")
        return value

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls if self.tls is not None else bool(self.ca_file or self.cert_file) or not self.is_near

    @property
    def is_near(self) -> bool:
        """Whether the address is of this machine."""
        return is_loopback(self.address)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.address:
            raise ValueError("expected HOST:PORT as address; got none")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("mutual TLS needs both cert_file and key_file; got one of them")
        if (self.ca_file or self.cert_file) and self.tls is False:
            raise ValueError("ca_file and cert_file are for TLS, which tls=false turns off")
        if self.token_file is not None and not self.uses_tls and not self.is_near:
            raise ValueError("a token would be sent in the clear: use TLS")
        return self


class Partner(BaseModel):
    """Caller that asks on behalf of another owner, and what it may have.

    By default only patch ids and distances leave, and no filter is allowed, because a filter tells what it filters by.
    """

    model_config = _FROZEN

    caller: str = Field(min_length=1, max_length=256)
    """Name by its credentials: subject of its token, or first alternative name of its certificate."""
    fields: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    max_hits: int = Field(default=100, ge=1, le=MAX_K)
    quota_per_second: float | None = Field(default=10.0, gt=0, le=1e9)
    quota_burst: int = Field(default=20, ge=1, le=10**9)
    distance_step: int = Field(default=1, ge=1, le=MAX_CODE_BITS)
    """Distances are rounded to multiples of this; 1 keeps them exact."""

    @field_validator("fields", mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        return _chosen(value, FIELDS)

    @field_validator("filters", mode="before")
    @classmethod
    def _known_filters(cls, value: Any) -> Any:
        return _chosen(value, FILTERS)


def listed(value: Any) -> Any:
    """List of a setting, from JSON where it comes from the environment.

    Raises:
        ValueError: It is no JSON list.
    """
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value or "[]")
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected a list in JSON: {error}") from error
    if not isinstance(found, list):
        raise ValueError("expected a list in JSON")
    return found


def _chosen(value: Any, known: frozenset[str]) -> Any:
    """Names of ``known``; the text ``all`` stands for all of them."""
    if value == "all":
        return tuple(sorted(known))
    for name in value if isinstance(value, list | tuple) else ():
        if name not in known:
            raise ValueError(f"unknown name {str(name)[:80]!r}{did_you_mean(str(name), sorted(known))}")
    return value
