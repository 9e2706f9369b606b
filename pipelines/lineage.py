"""Lineage: what a step hands to Kubeflow about a table or bundle.

A Lance table is never a kfp artifact itself: as an input it would be copied whole into the pod, as an output its URI
would have to lie in the pipeline's own bucket. A few hundred bytes of JSON say which table and version it was.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoforge.bundle import load_bundle
from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    from eoforge.bundle import Bundle

BUNDLE_PLACEHOLDER = "{bundle}"


def write_table_lineage(path: str, uri: str, version: int) -> dict[str, Any]:
    """Writes ``{"uri", "version", "rows", "schema_hash"}`` to ``path`` and returns it.

    Raises:
        NotFound: There is no such table or version.
    """
    table = open_table(TableRef(uri, version))
    facts = {
        "uri": uri,
        "version": version,
        "rows": table.count_rows(),
        "schema_hash": hashlib.sha256(str(table.schema).encode()).hexdigest()[:16],
    }
    Path(path).write_text(json.dumps(facts, indent=2))
    return facts


def write_bundle_lineage(path: str, bundle: Bundle) -> dict[str, Any]:
    """Writes which bundle it is, its method, code revision and training table to ``path`` and returns that."""
    patches = bundle.config["patches"] or {}  # a federated run's silos keep their tables to themselves
    facts = {
        "uri": bundle.uri,
        "id": bundle.id,
        "method": bundle.config["method"],
        "code_revision": bundle.config["code_revision"],
        "patches_uri": patches.get("uri"),
        "patches_version": patches.get("version"),
    }
    Path(path).write_text(json.dumps(facts, indent=2))
    return facts


def codes_uri(template: str, bundle_uri: str) -> str:
    """``template`` with ``{bundle}`` replaced by the bundle's short id: codes of two bundles never share a table."""
    if BUNDLE_PLACEHOLDER not in template:
        return template
    return template.replace(BUNDLE_PLACEHOLDER, load_bundle(bundle_uri).short_id)
