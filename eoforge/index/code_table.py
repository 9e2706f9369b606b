"""Description of a table that a bundle made from patches, stored in the metadata of its schema.

Addresses are relative to the table where they can be, so that a store that was moved, copied or restored names its own
bundle and patches and not those of the place where it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import structlog

from eoforge.bundle import Bundle, load_bundle
from eoforge.data.tables.commit import table_identity
from eoforge.errors import BundleError, DataRefused, NotFound
from eoforge.storage.addresses import TableRef, open_table, relative_to, resolve

if TYPE_CHECKING:
    import lance

log = structlog.get_logger("index")

BUNDLE_ID = "eoforge.bundle_id"
BUNDLE_URI = "eoforge.bundle_uri"
METHOD = "eoforge.method"
BITS = "eoforge.bits"
PATCHES_URI = "eoforge.patches_uri"
PATCHES_VERSION = "eoforge.patches_version"
PATCHES_ID = "eoforge.patches_id"
REBASE = "If it was moved, name the new address with `eoforge index BUNDLE TABLE CODES --rebase`"
_KEYS = (BUNDLE_ID, BUNDLE_URI, METHOD, PATCHES_URI, PATCHES_VERSION)


@dataclass(frozen=True)
class MadeTableInfo:
    """Origin of the rows of a table: the bundle and the version of the patches.

    Attributes:
        bundle_id: Full id of the run bundle.
        bundle_uri: Address of the bundle.
        method: Method of the bundle.
        patches: Table and version of the patches.
        patches_id: Identity of the table of patches; empty if unknown.
    """

    what: ClassVar[str] = "predictions"
    command: ClassVar[str] = "eoforge predict"

    bundle_id: str
    bundle_uri: str
    method: str
    patches: TableRef
    patches_id: str = ""

    def metadata(self, uri: str) -> dict[str, str]:
        """Description as metadata of the schema of the table at ``uri``."""
        bundle, patches = relative_to(self.bundle_uri, uri), relative_to(self.patches.uri, uri)
        values = (self.bundle_id, bundle, self.method, patches, self.patches.version)
        return {key: str(value) for key, value in zip(_KEYS, values, strict=True)} | {PATCHES_ID: self.patches_id}

    @classmethod
    def of(cls, schema: pa.Schema, uri: str) -> MadeTableInfo:
        """Description from the schema of the table at ``uri``.

        Raises:
            DataRefused: The table is of another kind.
        """
        found = cls._found(schema, uri, _KEYS)
        return cls(**_common(found, uri))

    @classmethod
    def _found(cls, schema: pa.Schema, uri: str, keys: tuple[str, ...]) -> dict[str, str]:
        found = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        if missing := [key for key in keys if key not in found]:
            raise DataRefused(
                f"{uri} is no table of {cls.what}: its schema lacks {', '.join(missing)}. Use `{cls.command}`"
            )
        if PATCHES_ID not in found:
            log.warning(
                f"{cls.what} name fixed addresses: a copy of them would read the original patches",
                table=uri,
                patches=found[PATCHES_URI],
                bundle=found[BUNDLE_URI],
                advice="eoforge index BUNDLE TABLE CODES --rebase",
            )
        return found

    def open_patches(self) -> lance.LanceDataset:
        """Patches of the codes.

        Raises:
            NotFound: The table or its version does not exist.
            DataRefused: Another table is at the address.
        """
        try:
            table = open_table(self.patches)
        except NotFound as error:
            raise NotFound(f"the codes name patches that are not there: {error}. {REBASE}") from error
        found = table_identity(table)
        if self.patches_id and found and found != self.patches_id:
            raise DataRefused(
                f"{self.patches} is another table than the patches of the codes: expected the table that was created "
                f"as {self.patches_id}, got {found}. {REBASE}"
            )
        return table

    def open_bundle(self) -> Bundle:
        """Bundle of the codes.

        Raises:
            NotFound: The bundle does not exist.
            BundleError: It is damaged, or another bundle.
        """
        try:
            bundle = load_bundle(self.bundle_uri)
        except NotFound as error:
            raise NotFound(f"the codes name a bundle that is not there: {error}. {REBASE}") from error
        if bundle.id != self.bundle_id:
            raise BundleError(
                f"the codes were made with bundle {self.bundle_id}, but {self.bundle_uri} is {bundle.id}. {REBASE}"
            )
        return bundle


@dataclass(frozen=True)
class CodeTableInfo(MadeTableInfo):
    """Origin of the codes of a table.

    Attributes:
        bits: Code length K.
    """

    what: ClassVar[str] = "codes"
    command: ClassVar[str] = "eoforge index"

    bits: int = field(kw_only=True)

    def metadata(self, uri: str) -> dict[str, str]:
        """Description as metadata of the schema of the table at ``uri``."""
        return super().metadata(uri) | {BITS: str(self.bits)}

    @classmethod
    def of(cls, schema: pa.Schema, uri: str) -> CodeTableInfo:
        """See :class:`MadeTableInfo`."""
        found = cls._found(schema, uri, (*_KEYS, BITS))
        return cls(**_common(found, uri), bits=int(found[BITS]))


def _common(found: dict[str, str], uri: str) -> dict[str, Any]:
    return {
        "bundle_id": found[BUNDLE_ID],
        "bundle_uri": resolve(found[BUNDLE_URI], uri),
        "method": found[METHOD],
        "patches": TableRef(resolve(found[PATCHES_URI], uri), int(found[PATCHES_VERSION])),
        "patches_id": found.get(PATCHES_ID, ""),
    }
