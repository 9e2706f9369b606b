"""Page tokens: position in a ranking, valid for one request and one version of the index."""

from __future__ import annotations

import base64
import hashlib
import struct

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.errors import LimitExceeded, UsageError
from eoforge.index.search import MAX_K
from services._runtime.errors import IndexChanged

DEFAULT_PAGE = 10
_TOKEN = struct.Struct(">QI16s")


def page_of(request: pb.SearchRequest, version: int, max_page: int) -> tuple[int, int]:
    """Offset and size of the requested page.

    Raises:
        LimitExceeded: The page is too large.
        UsageError: The token is malformed or belongs to another request.
        IndexChanged: The token belongs to another version of the index.
    """
    size = request.page_size or DEFAULT_PAGE
    if size > max_page:
        raise LimitExceeded(f"page_size may be at most {max_page}; got {size}")
    if not request.page_token:
        return 0, min(size, MAX_K)
    try:
        raw = base64.urlsafe_b64decode(request.page_token.encode("ascii"))
        token_version, offset, digest = _TOKEN.unpack(raw)
    except (ValueError, struct.error) as error:
        raise UsageError("page_token was not issued by this service; pass next_page_token unchanged") from error
    if digest != _digest(request) or offset >= MAX_K:
        raise UsageError("page_token belongs to another request; change nothing but page_size between pages")
    if token_version != version:
        raise IndexChanged(
            f"page_token belongs to index version {token_version}, now it is {version}; start from the first page"
        )
    return offset, min(size, MAX_K - offset)


def token_for(request: pb.SearchRequest, version: int, offset: int) -> str:
    """Token of the page that starts at ``offset``."""
    return base64.urlsafe_b64encode(_TOKEN.pack(version, offset, _digest(request))).decode("ascii")


def _digest(request: pb.SearchRequest) -> bytes:
    same = pb.SearchRequest()
    same.CopyFrom(request)
    for varying in ("page_size", "page_token", "include_thumbnails", "include_codes"):
        same.ClearField(varying)
    return hashlib.blake2b(same.SerializeToString(deterministic=True), digest_size=16).digest()
