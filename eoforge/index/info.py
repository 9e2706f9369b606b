"""What ``codes.lance`` says about itself, in the metadata of its schema."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from eoforge.errors import DataRefused
from eoforge.storage.addresses import TableRef

BUNDLE_ID = "eoforge.bundle_id"
BUNDLE_URI = "eoforge.bundle_uri"
METHOD = "eoforge.method"
BITS = "eoforge.bits"
PATCHES_URI = "eoforge.patches_uri"
PATCHES_VERSION = "eoforge.patches_version"
_KEYS = (BUNDLE_ID, BUNDLE_URI, METHOD, BITS, PATCHES_URI, PATCHES_VERSION)


@dataclass(frozen=True)
class CodeTableInfo:
    """The bundle that encoded, and the version of the patches that the codes stand for.

    Attributes:
        bundle_id: Full id of the run bundle.
        bundle_uri: Where it was when the codes were made.
        method: Its method.
        bits: Code length K.
        patches: Table and version.
    """

    bundle_id: str
    bundle_uri: str
    method: str
    bits: int
    patches: TableRef

    def metadata(self) -> dict[str, str]:
        """As metadata of a schema."""
        values = (self.bundle_id, self.bundle_uri, self.method, self.bits, self.patches.uri, self.patches.version)
        return {key: str(value) for key, value in zip(_KEYS, values, strict=True)}

    @classmethod
    def of(cls, schema: pa.Schema, uri: str) -> CodeTableInfo:
        """Reads the schema of the table at ``uri``.

        Raises:
            DataRefused: The table is no table of codes.
        """
        found = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        missing = [key for key in _KEYS if key not in found]
        if missing:
            raise DataRefused(f"{uri} is no table of codes: its schema lacks {', '.join(missing)}. Use `eoforge index`")
        patches = TableRef(found[PATCHES_URI], int(found[PATCHES_VERSION]))
        return cls(found[BUNDLE_ID], found[BUNDLE_URI], found[METHOD], int(found[BITS]), patches)
