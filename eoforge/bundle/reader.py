"""Reader of run bundles, which checks every byte against the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoforge.bundle.format import (
    CONFIG,
    FORMAT,
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    METRICS,
    PLAIN_NAME,
    REQUIRED_CONFIG,
    REQUIRED_FILES,
    SHA256,
    WEIGHTS,
    parse_object,
    size_limit,
)
from eoforge.bundle.listing import list_bundles
from eoforge.errors import BundleError, DataRefused, NotFound
from eoforge.storage.addresses import TableRef, join, normalise, open_table, resolve
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 5


@dataclass(frozen=True)
class Bundle:
    """Bundle whose bytes agree with its manifest.

    Attributes:
        uri: Folder of the bundle.
        id: sha256 of ``manifest.json``, 64 hex digits.
        config: Content of ``config.json``, with the absolute address of the training patches.
        metrics: Content of ``metrics.json``.
        files: Name -> (sha256, bytes) of every file.
    """

    uri: str
    id: str
    config: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, tuple[str, int]] = field(repr=False)

    @property
    def short_id(self) -> str:
        """First 16 hex digits of the id, as in tags and file names."""
        return self.id[:16]

    def read(self, name: str) -> bytes:
        """Bytes of one file, checked against the manifest.

        Raises:
            NotFound: The manifest names no such file.
            BundleError: The bytes do not have the size or sha256 that the manifest names.
        """
        if name not in self.files:
            raise NotFound(f"bundle {self.uri} holds {', '.join(sorted(self.files))}; there is no {name!r}")
        return _read_checked(ObjectStore(self.uri), name, *self.files[name])

    def weights(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU.

        Raises:
            BundleError: The file changed since the bundle was loaded, or is no safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self.read(WEIGHTS))
        except SafetensorError as error:
            raise BundleError(f"{join(self.uri, WEIGHTS)} is no valid safetensors file: {error}") from error


def load_bundle(uri: str, *, weights: bool = True) -> Bundle:
    """Opens a bundle and checks every byte of it.

    Args:
        uri: Folder of the bundle.
        weights: Whether the bytes of the weights are checked too; without it a large bundle opens at once, for
            readers of figures. ``Bundle.weights`` checks them in any case.

    Raises:
        NotFound: The folder has no ``manifest.json``, or does not exist.
        BundleError: A file is missing, unknown to the manifest, too large, or differs from its sha256.
    """
    uri = normalise(uri)
    store = _existing(uri)
    size = store.size(MANIFEST)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{join(uri, MANIFEST)} has {size} bytes; at most {MAX_MANIFEST_BYTES} are read")
    raw = store.get(MANIFEST)
    files = _parse_manifest(uri, raw)
    unknown = sorted(set(store.list()) - set(files) - {MANIFEST})
    if unknown:
        raise BundleError(f"{uri} holds files that its manifest does not name: {', '.join(unknown[:5])}. Remove them")
    contents: dict[str, Any] = {}
    for name, (sha256, length) in files.items():
        if name == WEIGHTS and not weights:
            continue
        data = _read_checked(store, name, sha256, length)
        if name in (CONFIG, METRICS):
            contents[name] = parse_object(join(uri, name), data)
    config = with_patches(contents[CONFIG], lambda address: resolve(address, uri))
    return Bundle(uri, hashlib.sha256(raw).hexdigest(), config, contents[METRICS], files)


def with_patches(config: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Configuration with another address of the training patches, if it names any.

    A bundle stores an address that is relative to its folder where it can be; in memory the address is absolute.
    """
    patches = config.get("patches")
    if not isinstance(patches, Mapping) or not isinstance(patches.get("uri"), str):  # silos publish no table
        return dict(config)
    return {**config, "patches": {**patches, "uri": change(patches["uri"])}}


def training_patches(bundle: Bundle) -> TableRef:
    """Table and version that a bundle was trained on, for a training that continues from it.

    Raises:
        NotFound: The table or its version does not exist.
        DataRefused: Another table is at the address.
    """
    from eoforge.data.tables.commit import table_identity  # local import: the coordinator needs no pyarrow for this

    patches = bundle.config["patches"]
    ref = TableRef(patches["uri"], patches["version"])
    expected, found = patches.get("identity", ""), table_identity(open_table(ref))
    if expected and found and expected != found:
        raise DataRefused(
            f"{ref} is another table than the one that {bundle.uri} was trained on: expected the table that was "
            f"created as {expected}, got {found}"
        )
    return ref


def require_keys(bundle: Bundle, further: tuple[str, ...] = ()) -> None:
    """Checks that ``config.json`` holds the keys of every trained model, and ``further`` ones.

    Raises:
        BundleError: Keys are missing.
    """
    missing = [key for key in (*REQUIRED_CONFIG, *further) if key not in bundle.config]
    if missing:
        raise BundleError(f"{join(bundle.uri, CONFIG)} lacks {', '.join(missing)}: it is no trained model of eoforge")


def _existing(uri: str) -> ObjectStore:
    # A local ObjectStore creates its root; a search for a bundle must leave no empty folders.
    if "://" in uri or (Path(uri) / MANIFEST).is_file():
        store = ObjectStore(uri)
        if store.exists(MANIFEST):
            return store
    message = f"no bundle at {uri}: expected {MANIFEST}, which is written last, when training has ended"
    if below := list_bundles(uri):
        shown = "; ".join(f"{b.bundle} ({b.method}, {b.date:%Y-%m-%d %H:%M})" for b in below[:_SHOWN])
        message += f". {len(below)} bundles lie below it, the newest first: {shown}. Name one of them"
    raise NotFound(message)


def _parse_manifest(uri: str, raw: bytes) -> dict[str, tuple[str, int]]:
    where = join(uri, MANIFEST)
    manifest = parse_object(where, raw)
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{where} has format {manifest.get('format')!r}; this eoforge reads format {FORMAT}")
    entries = manifest.get("files")
    if not isinstance(entries, dict) or len(entries) > MAX_FILES:
        raise BundleError(f"{where} must name at most {MAX_FILES} files")
    files: dict[str, tuple[str, int]] = {}
    for name, entry in entries.items():
        sha256, length = (entry.get("sha256"), entry.get("bytes")) if isinstance(entry, dict) else (None, None)
        if not (
            PLAIN_NAME.fullmatch(name) and isinstance(sha256, str) and SHA256.fullmatch(sha256) and type(length) is int
        ):
            raise BundleError(f"{where}: expected a plain file name with sha256 and bytes; got {name!r}: {entry!r}")
        if not 0 <= length <= size_limit(name):
            raise BundleError(f"{where}: {name} claims {length} bytes; at most {size_limit(name)} are read")
        files[name] = (sha256, length)
    missing = [name for name in REQUIRED_FILES if name not in files]
    if missing:
        raise BundleError(f"{where} does not name {', '.join(missing)}")
    return files


def _read_checked(store: ObjectStore, name: str, sha256: str, length: int) -> bytes:
    where = join(store.root, name)
    try:
        size = store.size(name)
        if size != length:  # before reading: an oversized file must not fill the memory
            raise BundleError(f"{where} has {size} bytes; its manifest says {length}. The bundle is damaged")
        data = store.get(name)
    except NotFound as error:
        raise BundleError(f"{where} is missing although the manifest names it. The bundle is damaged") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{where} does not have the sha256 that its manifest names. The bundle is damaged")
    return data
