"""Writer of run bundles: checked names and sizes, manifest last, without the weights in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from eoforge.bundle.format import CARD, CONFIG, FORMAT, MANIFEST, METRICS, PLAIN_NAME, WEIGHTS, size_limit
from eoforge.bundle.reader import Bundle, load_bundle, with_patches
from eoforge.errors import ConflictError, LimitExceeded, StoreError, UsageError
from eoforge.storage.addresses import TableRef, address_of, join, normalise, open_table, relative_to
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    import lance
    from torch import Tensor


Parts = Callable[[], Iterator[bytes]]
"""Reads a file part by part, from its beginning at each call."""


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

    Args:
        parent_uri: Folder or ``s3://`` prefix that holds bundles.
        weights: Tensors by name.
        config: See ``REQUIRED_CONFIG``; ``patches`` (``{"uri", "version"}``), where present, is tagged.
        metrics: Finite JSON values.
        readme: Model card, Markdown.
        name: Folder name; by default ``<method>-<short id>``, so that a repeated call writes the same bundle.
        extra_files: Further files by name.

    Raises:
        ConflictError: A different bundle has that name already.
        UsageError: A file name is not plain, or a metric is NaN or infinite.
        LimitExceeded: A file is larger than the limit of the format.
        NotFound: The table named by ``config["patches"]`` does not exist at that version.
    """
    from safetensors.torch import save

    # safetensors refuses views that share memory or are not contiguous, so each tensor gets storage of its own.
    data = save({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()})
    tagged = config.get("patches")
    return load_bundle(
        store_bundle(parent_uri, lambda: iter((data,)), config, metrics, readme, name, extra_files, tagged)
    )


def store_bundle(
    parent_uri: str,
    weights: Parts,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    readme: str,
    name: str | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    trained_on: Mapping[str, Any] | None = None,
) -> str:
    """Writes a bundle part by part; arguments and errors as for :func:`write_bundle`.

    Args:
        parent_uri: Folder of bundles.
        weights: File in the safetensors format; read twice, for its sha256 and for the copy.
        config: Content of ``config.json``.
        metrics: Content of ``metrics.json``.
        readme: Model card.
        name: Folder name; by default ``<method>-<short id>``.
        extra_files: Further files by name.
        trained_on: Table (``{"uri", "version"}``) whose version is tagged ``bundle-<short id>``. The tag is set before
            the manifest is written: an existing bundle protects its training data from clean-up, and a crash in
            between leaves a harmless tag.

    Returns:
        URI of the bundle.
    """
    table = open_table(TableRef(trained_on["uri"], trained_on["version"])) if trained_on else None
    config = _movable(config, normalise(parent_uri), table)
    try:
        files = {CONFIG: _json(config), METRICS: _json(metrics), CARD: readme.encode(), **(extra_files or {})}
    except ValueError as error:
        raise UsageError(f"config and metrics of a bundle must be finite JSON values: {error}") from error
    entries: dict[str, dict[str, str | int]] = {
        n: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for n, data in files.items()
    }
    digest, length = hashlib.sha256(), 0
    for part in weights():
        digest.update(part)
        length += len(part)
    entries[WEIGHTS] = {"sha256": digest.hexdigest(), "bytes": length}
    for file_name, entry in entries.items():
        if not PLAIN_NAME.fullmatch(file_name) or file_name == MANIFEST:
            raise UsageError(f"a bundle file needs a plain name (letters, digits, '.', '_', '-'); got {file_name!r}")
        if (size := int(entry["bytes"])) > size_limit(file_name):
            raise LimitExceeded(f"{file_name} has {size} bytes; a bundle file may have {size_limit(file_name)}")
    manifest = _json({"format": FORMAT, "files": entries})
    short_id = hashlib.sha256(manifest).hexdigest()[:16]
    method = str(config.get("method", ""))
    folder = name or (f"{method}-{short_id}" if PLAIN_NAME.fullmatch(method) else short_id)
    if not PLAIN_NAME.fullmatch(folder):
        raise UsageError(f"a bundle needs a plain name (letters, digits, '.', '_', '-'); got {folder!r}")

    uri = join(normalise(parent_uri), folder)
    store = ObjectStore(uri)
    if not store.exists(MANIFEST):  # an existing bundle is immutable: none of its files may be replaced
        store.put_stream(WEIGHTS, weights())
        for file_name, data in files.items():
            store.put(file_name, data)
        if table is not None:
            _tag(table, f"bundle-{short_id}")
        store.put_if_absent(MANIFEST, manifest)
    if store.get(MANIFEST) != manifest:
        raise ConflictError(f"{uri} already holds another bundle; choose another name or remove it")
    return uri


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _movable(config: Mapping[str, Any], parent: str, table: lance.LanceDataset | None) -> dict[str, Any]:
    """Configuration whose training patches are named by an address relative to the bundle, and by their identity."""
    config = with_patches(config, lambda uri: relative_to(uri, join(parent, "bundle")))
    if table is None:
        return config
    from eoforge.data.tables.commit import table_identity  # local import: the coordinator needs no pyarrow

    return {**config, "patches": {**config["patches"], "identity": table_identity(table)}}


def _tag(table: lance.LanceDataset, tag: str) -> None:
    if tag in table.tags.list():
        return
    try:
        table.tags.create(tag, table.version)
    except (OSError, ValueError) as error:
        if tag not in table.tags.list():  # another writer of the same bundle may have been faster
            raise StoreError(
                f"cannot tag version {table.version} of {address_of(table)} as {tag}: {error}. Training needs write "
                "access to its table"
            ) from error
