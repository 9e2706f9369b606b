"""Addresses of tables and files, in local folders and S3-compatible buckets.

URIs are local paths or ``s3://bucket/prefix``. S3 credentials and endpoint come from the usual environment
(``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``), which
is what a Kubernetes secret provides.

An S3 address is plain text, no URL: ``#``, ``?`` and ``%`` stand for themselves, as in a local path. Lance parses URLs,
so addresses to Lance pass :func:`lance_uri`, the only place that encodes, and addresses from Lance :func:`address_of`.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from eoforge.errors import NotFound, StoreError, UsageError

if TYPE_CHECKING:
    import lance

S3_SCHEME = "s3://"
TABLE_SUFFIX = ".lance"
_UP = "../"
# Suffixes of messages of Lance and obstore: positions in Rust sources, and a dump of the error object.
_RUST_POSITION = re.compile(r",? \S+\.rs:\d+:\d+")
_RUST_DUMP = "\n\nDebug source:"
# Bucket, then the parts of the key. Backslashes and control characters have no common meaning among S3 servers.
_S3_ADDRESS = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]*(/(?!\.{1,2}(/|$))[^/\\\x00-\x1f\x7f]+)*")
_ABSENT = ("not found", "not a directory")


@dataclass(frozen=True)
class TableRef:
    """Reference to a table, optionally at a version: ``TABLE[@version]``."""

    uri: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> TableRef:
        """Reference from the text ``URI`` or ``URI@7``.

        Raises:
            UsageError: The text after the last ``@`` of the final path part is no positive number, and no end of a
                name (``me@home.lance``).
        """
        head, at, tail = text.rstrip("/").rpartition("@")
        if not at or "/" in tail or tail.endswith(TABLE_SUFFIX):
            return cls(normalise(text))
        if not tail.isdigit() or int(tail) < 1:
            raise UsageError(f"expected TABLE or TABLE@VERSION with a positive version number; got {text!r}")
        return cls(normalise(head), int(tail))

    def pinned(self) -> TableRef:
        """Reference to the named version, or to the newest one if none is named.

        Raises:
            NotFound: The table or the version does not exist.
            StoreError: The store cannot be reached or refuses access, or the table is damaged.
        """
        return self if self.version else TableRef(self.uri, int(open_table(self).version))

    def __str__(self) -> str:
        return self.uri if self.version is None else f"{self.uri}@{self.version}"


def is_s3(uri: str) -> bool:
    """Whether ``uri`` names an object store."""
    return uri.startswith(S3_SCHEME)


def normalise(uri: str) -> str:
    """Normal form of an address: absolute local path, or S3 URI without a trailing slash.

    Raises:
        UsageError: The scheme is neither ``s3`` nor ``file``, the address is empty, the bucket is missing or malformed,
            or the S3 key has an empty part, ``.``, ``..``, a backslash or a control character.
    """
    if not uri.strip():
        raise UsageError("expected a local path or s3://BUCKET/PREFIX; got an empty address (an unset variable?)")
    if is_s3(uri):
        address = uri.rstrip("/")
        if not _S3_ADDRESS.fullmatch(address):
            raise UsageError(
                "expected s3://BUCKET/PREFIX without empty parts, '.', '..', backslashes and control characters; "
                f"got {uri[:200]!r}"
            )
        return address
    if "://" in uri and not uri.startswith("file://"):
        raise UsageError(f"expected a local path or s3://BUCKET/PREFIX; got {uri!r}")
    return str(Path(uri.removeprefix("file://")).expanduser().absolute())


def table_to_write(text: str) -> str:
    """URI of a table that is to be created or to grow.

    Raises:
        UsageError: The text names a version, or a whole bucket: jobs and quarantine lie beside the table.
    """
    ref = TableRef.parse(text)
    if ref.version is not None:
        raise UsageError(f"a table grows at its newest version; expected it without @{ref.version}, got {text!r}")
    if is_s3(ref.uri) and "/" not in ref.uri.removeprefix(S3_SCHEME):
        raise UsageError(f"expected a table inside a bucket, s3://BUCKET/TABLE; got {text!r}")
    return ref.uri


def join(uri: str, *parts: str) -> str:
    """Address with path parts appended."""
    return "/".join([uri.rstrip("/"), *(p.strip("/") for p in parts)])


def relative_to(uri: str, base: str) -> str:
    """Address of ``uri`` as seen from ``base``, such as ``../patches.lance``, so that both can move together.

    Args:
        uri: Normalised address.
        base: Normalised address of the table or bundle that names ``uri``.

    Returns:
        Relative address; ``uri`` itself if both share neither a bucket nor a folder below the root of the disk.
    """
    if is_s3(uri) != is_s3(base) or uri.startswith(_UP):
        return uri
    apart = uri.split("/")[:3] != base.split("/")[:3] if is_s3(uri) else uri.split("/")[:2] != base.split("/")[:2]
    return uri if apart else posixpath.relpath(uri.removeprefix(S3_SCHEME), base.removeprefix(S3_SCHEME))


def resolve(address: str, base: str) -> str:
    """Address that ``base`` names, the inverse of :func:`relative_to`; other addresses are returned as they are."""
    if not address.startswith(_UP):
        return address
    if not is_s3(base):
        return posixpath.normpath(f"{base}/{address}")
    return S3_SCHEME + posixpath.normpath(f"{base.removeprefix(S3_SCHEME)}/{address}")


def lance_uri(uri: str) -> str:
    """Address in the form that Lance takes: the key of an S3 address percent-encoded, a local path unchanged."""
    if not is_s3(uri):
        return uri
    bucket, slash, key = uri.removeprefix(S3_SCHEME).partition("/")
    return f"{S3_SCHEME}{bucket}{slash}{quote(key)}"


def address_of(table: lance.LanceDataset) -> str:
    """Address of an opened table, the inverse of :func:`lance_uri`."""
    uri = str(table.uri)
    return unquote(uri) if is_s3(uri) else normalise(uri)


def storage_options(uri: str) -> dict[str, str] | None:
    """Options of Lance for the store of ``uri``: None for local paths, the AWS environment for S3."""
    if not is_s3(uri):
        return None
    env = os.environ
    options = {
        "aws_access_key_id": env.get("AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": env.get("AWS_SECRET_ACCESS_KEY"),
        "aws_session_token": env.get("AWS_SESSION_TOKEN"),
        "aws_region": env.get("AWS_REGION", env.get("AWS_DEFAULT_REGION", "us-east-1")),
        "aws_endpoint": env.get("AWS_ENDPOINT_URL"),
    }
    if (env.get("AWS_ENDPOINT_URL") or "").startswith("http://"):
        options["allow_http"] = "true"
    return {k: v for k, v in options.items() if v}


def open_table(ref: TableRef | str) -> lance.LanceDataset:
    """Lance table at the version of the reference, or at the newest.

    Raises:
        NotFound: The table or the version does not exist.
        StoreError: The store cannot be reached or refuses access, or the table is damaged.
    """
    import lance  # local import: it takes seconds, and most processes open no table

    ref = TableRef.parse(ref) if isinstance(ref, str) else ref
    try:
        return lance.dataset(lance_uri(ref.uri), version=ref.version, storage_options=storage_options(ref.uri))
    except (ValueError, OSError) as error:
        reason = plain(error)
        # Lance raises ValueError for an absent table, wrong credentials and a dead server alike.
        if any(word in reason.lower() for word in _ABSENT):
            if ref.version is not None and table_exists(ref.uri):
                held = _versions(open_table(TableRef(ref.uri)))
                raise NotFound(f"{ref.uri} has no version {ref.version}; it has {held}") from error
            raise NotFound(f"no Lance table at {ref}: {reason}") from error
        raise StoreError(f"cannot open {ref}: {reason}. Check with `eoforge doctor`.") from error


def _versions(table: lance.LanceDataset) -> str:
    """Versions of a table as text: ranges, the newest ten at most."""
    ranges: list[list[int]] = []
    for version in sorted(int(entry["version"]) for entry in table.versions()):
        if ranges and ranges[-1][1] == version - 1:
            ranges[-1][1] = version
        else:
            ranges.append([version, version])
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in ranges]
    return ("... " if len(shown) > 10 else "") + ", ".join(shown[-10:])


def table_exists(uri: str) -> bool:
    """Whether ``uri`` holds a Lance table."""
    try:
        open_table(TableRef(normalise(uri)))
    except NotFound:
        return False
    return True


def plain(error: Exception) -> str:
    """Message of an error of a store library, without positions in its sources and dumps of its objects."""
    return _RUST_POSITION.sub("", str(error).partition(_RUST_DUMP)[0])
