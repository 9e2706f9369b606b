"""The run bundle: what training leaves behind and everything later starts from.

A bundle is a folder, local or on S3::

    <parent>/<name>/weights.safetensors   plain tensors, never pickle
                    config.json           how it was made and what it expects (see ``REQUIRED_CONFIG``)
                    metrics.json          what was measured
                    README.md             the model card
                    manifest.json         size and sha256 of each of them; written last

``manifest.json`` comes last, so a folder without it is no bundle, whatever else lies in it. The sha256 of the
manifest is the bundle's id: equal ids mean equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoforge.errors import BundleError, ConflictError, LimitExceeded, NotFound, StoreError, UsageError
from eoforge.storage.addresses import TableRef, join, normalise, open_table
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MANIFEST, WEIGHTS, CONFIG, METRICS, CARD = (
    "manifest.json",
    "weights.safetensors",
    "config.json",
    "metrics.json",
    "README.md",
)
REQUIRED_FILES: tuple[str, ...] = (WEIGHTS, CONFIG, METRICS, CARD)

REQUIRED_CONFIG: tuple[str, ...] = (
    "method",
    "config",
    "bands",
    "normalisation",
    "interpolation",
    "bits",
    "embedding_dim",
    "seed",
    "patches",
    "code_revision",
)
"""Keys that ``config.json`` of a trained model must hold; :func:`require_keys` checks them."""

MAX_WEIGHTS_BYTES = 8 << 30
MAX_FILE_BYTES = 64 << 20
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _limit(name: str) -> int:
    return MAX_WEIGHTS_BYTES if name == WEIGHTS else MAX_FILE_BYTES


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Bundle:
    """A bundle that exists and whose bytes agree with its manifest.

    Attributes:
        uri: Folder it was read from.
        id: sha256 of ``manifest.json``, 64 hex digits.
        config: Content of ``config.json``.
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
        """The first 16 hex digits of the id: what tags and file names carry."""
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


def write_bundle(
    parent_uri: str,
    *,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    readme: str,
    name: str | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Writes a bundle and tags the version of the table that it was trained on.

    The tag (``bundle-<short id>``) is set before the manifest is written: a bundle that exists keeps its training
    data from being cleaned up; a crash in between leaves a tag that harms nobody.

    Args:
        parent_uri: Folder or ``s3://`` prefix that holds bundles.
        weights: Tensors by name.
        config: See ``REQUIRED_CONFIG``; ``patches`` (``{"uri", "version"}``), where present, is tagged.
        metrics: Finite JSON values only.
        readme: The model card, Markdown.
        name: Folder name; the short id by default, which makes writing the same bundle twice harmless.
        extra_files: Further files by name.

    Raises:
        ConflictError: A different bundle has that name already.
        UsageError: A file name is not plain, or a metric is NaN or infinite.
        LimitExceeded: A file is larger than the limits above.
        NotFound: The table named by ``config["patches"]`` does not exist at that version.
    """
    from safetensors.torch import save

    try:
        files = {CONFIG: _json(config), METRICS: _json(metrics), CARD: readme.encode(), **(extra_files or {})}
    except ValueError as error:
        raise UsageError(f"config and metrics of a bundle must be finite JSON values: {error}") from error
    # safetensors refuses views that share memory or are not contiguous, so each tensor gets storage of its own.
    files[WEIGHTS] = save({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()})
    for file_name, data in files.items():
        if not _NAME.fullmatch(file_name) or file_name == MANIFEST:
            raise UsageError(f"a bundle file needs a plain name (letters, digits, '.', '_', '-'); got {file_name!r}")
        if len(data) > _limit(file_name):
            raise LimitExceeded(f"{file_name} has {len(data)} bytes; a bundle file may have {_limit(file_name)}")
    entries = {n: {"sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)} for n, d in files.items()}
    manifest = _json({"format": FORMAT, "files": entries})
    bundle_id = hashlib.sha256(manifest).hexdigest()
    folder = name or bundle_id[:16]
    if not _NAME.fullmatch(folder):
        raise UsageError(f"a bundle needs a plain name (letters, digits, '.', '_', '-'); got {folder!r}")

    uri = join(normalise(parent_uri), folder)
    store = ObjectStore(uri)
    if not store.exists(MANIFEST):  # an existing bundle is immutable: not one of its files may be touched
        for file_name, data in files.items():
            store.put(file_name, data)
        _tag(config.get("patches"), f"bundle-{bundle_id[:16]}")
        store.put_if_absent(MANIFEST, manifest)
    if store.get(MANIFEST) != manifest:
        raise ConflictError(f"{uri} already holds another bundle; choose another name or remove it")
    return load_bundle(uri)


def load_bundle(uri: str) -> Bundle:
    """Opens a bundle and checks every byte of it.

    Raises:
        NotFound: There is no bundle (no ``manifest.json``).
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
        data = _read_checked(store, name, sha256, length)
        if name in (CONFIG, METRICS):
            contents[name] = _parse_object(join(uri, name), data)
    return Bundle(uri, hashlib.sha256(raw).hexdigest(), contents[CONFIG], contents[METRICS], files)


def require_keys(bundle: Bundle) -> None:
    """Checks that ``config.json`` says all that is needed to encode with the model.

    Raises:
        BundleError: Keys are missing.
    """
    missing = [key for key in REQUIRED_CONFIG if key not in bundle.config]
    if missing:
        raise BundleError(f"{join(bundle.uri, CONFIG)} lacks {', '.join(missing)}: it is no trained model of eoforge")


@cache
def code_revision() -> str:
    """What code ran: the Git commit (with ``-dirty`` for uncommitted changes), else the version of the package."""
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass  # no git here, or a checkout it refuses: the version still says what code this is
    try:
        return f"eoforge-{version('eoforge')}"
    except PackageNotFoundError:
        return "unknown"


def _existing(uri: str) -> ObjectStore:
    # A local ObjectStore makes its root; looking for a bundle must not leave empty folders behind.
    if "://" in uri or (Path(uri) / MANIFEST).is_file():
        store = ObjectStore(uri)
        if store.exists(MANIFEST):
            return store
    raise NotFound(f"no bundle at {uri}: expected {MANIFEST}, which is written last, when training has ended")


def _parse_object(where: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{where} must hold a JSON object; got {type(value).__name__}")
    return value


def _parse_manifest(uri: str, raw: bytes) -> dict[str, tuple[str, int]]:
    where = join(uri, MANIFEST)
    manifest = _parse_object(where, raw)
    if manifest.get("format") != FORMAT:
        raise BundleError(f"{where} has format {manifest.get('format')!r}; this eoforge reads format {FORMAT}")
    entries = manifest.get("files")
    if not isinstance(entries, dict) or len(entries) > MAX_FILES:
        raise BundleError(f"{where} must name at most {MAX_FILES} files")
    files: dict[str, tuple[str, int]] = {}
    for name, entry in entries.items():
        sha256, length = (entry.get("sha256"), entry.get("bytes")) if isinstance(entry, dict) else (None, None)
        if not (
            _NAME.fullmatch(name) and isinstance(sha256, str) and _SHA256.fullmatch(sha256) and type(length) is int
        ):
            raise BundleError(f"{where}: expected a plain file name with sha256 and bytes; got {name!r}: {entry!r}")
        if not 0 <= length <= _limit(name):
            raise BundleError(f"{where}: {name} claims {length} bytes; at most {_limit(name)} are read")
        files[name] = (sha256, length)
    missing = [name for name in REQUIRED_FILES if name not in files]
    if missing:
        raise BundleError(f"{where} does not name {', '.join(missing)}")
    return files


def _read_checked(store: ObjectStore, name: str, sha256: str, length: int) -> bytes:
    where = join(store.root, name)
    try:
        size = store.size(name)
        if size != length:  # before reading: a file blown up to fill the memory is refused unread
            raise BundleError(f"{where} has {size} bytes; its manifest says {length}. The bundle is damaged")
        data = store.get(name)
    except NotFound as error:
        raise BundleError(f"{where} is missing although the manifest names it. The bundle is damaged") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{where} does not have the sha256 that its manifest names. The bundle is damaged")
    return data


def _tag(patches: Any, tag: str) -> None:
    if not patches:
        return
    ref = TableRef(patches["uri"], patches["version"])
    table = open_table(ref)
    if tag in table.tags.list():
        return
    try:
        table.tags.create(tag, ref.version)
    except (OSError, ValueError) as error:
        if tag not in table.tags.list():  # another writer of the same bundle may have been faster
            raise StoreError(f"cannot tag {ref} as {tag}: {error}. Training needs write access to its table") from error
