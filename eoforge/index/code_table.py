"""Description of a table that a bundle made from patches, stored in the metadata of its schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from eoforge.errors import DataRefused
from eoforge.storage.addresses import TableRef

BUNDLE_ID = "eoforge.bundle_id"
BUNDLE_URI = "eoforge.bundle_uri"
METHOD = "eoforge.method"
BITS = "eoforge.bits"
PATCHES_URI = "eoforge.patches_uri"
PATCHES_VERSION = "eoforge.patches_version"
_KEYS = (BUNDLE_ID, BUNDLE_URI, METHOD, PATCHES_URI, PATCHES_VERSION)


@dataclass(frozen=True)
class MadeTableInfo:
    """Origin of the rows of a table: the bundle and the version of the patches.

    Attributes:
        bundle_id: Full id of the run bundle.
        bundle_uri: Address of the bundle when the rows were made.
        method: Method of the bundle.
        patches: Table and version of the patches.
    """

    what: ClassVar[str] = "predictions"
    command: ClassVar[str] = "eoforge predict"

    bundle_id: str
    bundle_uri: str
    method: str
    patches: TableRef

    def metadata(self) -> dict[str, str]:
        """Description as metadata of a schema."""
        values = (self.bundle_id, self.bundle_uri, self.method, self.patches.uri, self.patches.version)
        return {key: str(value) for key, value in zip(_KEYS, values, strict=True)}

    @classmethod
    def of(cls, schema: pa.Schema, uri: str) -> MadeTableInfo:
        """Description from the schema of the table at ``uri``.

        Raises:
            DataRefused: The table is of another kind.
        """
        found = cls._found(schema, uri, _KEYS)
        return cls(**_common(found))

    @classmethod
    def _found(cls, schema: pa.Schema, uri: str, keys: tuple[str, ...]) -> dict[str, str]:
        found = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        if missing := [key for key in keys if key not in found]:
            raise DataRefused(
                f"{uri} is no table of {cls.what}: its schema lacks {', '.join(missing)}. Use `{cls.command}`"
            )
        return found


@dataclass(frozen=True)
class CodeTableInfo(MadeTableInfo):
    """Origin of the codes of a table.

    Attributes:
        bits: Code length K.
    """

    what: ClassVar[str] = "codes"
    command: ClassVar[str] = "eoforge index"

    bits: int

    def metadata(self) -> dict[str, str]:
        """Description as metadata of a schema."""
        return super().metadata() | {BITS: str(self.bits)}

    @classmethod
    def of(cls, schema: pa.Schema, uri: str) -> CodeTableInfo:
        """See :class:`MadeTableInfo`."""
        found = cls._found(schema, uri, (*_KEYS, BITS))
        return cls(**_common(found), bits=int(found[BITS]))


def _common(found: dict[str, str]) -> dict[str, Any]:
    patches = TableRef(found[PATCHES_URI], int(found[PATCHES_VERSION]))
    return {
        "bundle_id": found[BUNDLE_ID],
        "bundle_uri": found[BUNDLE_URI],
        "method": found[METHOD],
        "patches": patches,
    }
