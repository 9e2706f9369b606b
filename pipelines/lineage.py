"""Lineage artifacts: description of a table or bundle for Kubeflow.

A Lance table is never a kfp artifact: as an input it would be copied whole into the pod, as an output its URI would
have to lie in the bucket of the pipeline. A few hundred bytes of JSON name the table and its version instead.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoforge.bundle import load_bundle
from eoforge.storage.addresses import TableRef, open_table
from pipelines.settings import IMAGE

if TYPE_CHECKING:
    from eoforge.bundle import Bundle

BUNDLE_PLACEHOLDER = "{bundle}"


def write_table_lineage(path: str, uri: str, version: int) -> dict[str, Any]:
    """Lineage of a table, also written to ``path``: ``{"uri", "version", "rows", "schema_hash", "image"}``.

    Raises:
        NotFound: The table or version does not exist.
    """
    table = open_table(TableRef(uri, version))
    facts = {
        "uri": uri,
        "version": version,
        "rows": table.count_rows(),
        "schema_hash": hashlib.sha256(str(table.schema).encode()).hexdigest()[:16],
        "image": _image(),
    }
    Path(path).write_text(json.dumps(facts, indent=2))
    return facts


def write_bundle_lineage(path: str, bundle: Bundle) -> dict[str, Any]:
    """Lineage of a bundle, also written to ``path``: address, id, method, seed, code, training table, image."""
    patches = bundle.config["patches"] or {}  # the silos of a federated run do not publish their tables
    facts = {
        "uri": bundle.uri,
        "id": bundle.id,
        "method": bundle.config["method"],
        "seed": bundle.config["seed"],
        "code_revision": bundle.config["code_revision"],
        "patches_uri": patches.get("uri"),
        "patches_version": patches.get("version"),
        "image": _image(),
    }
    Path(path).write_text(json.dumps(facts, indent=2))
    return facts


def _image() -> str | None:
    """Image of this step, by digest if the pipelines were installed so; None outside a cluster."""
    return IMAGE if "KUBERNETES_SERVICE_HOST" in os.environ else None


def codes_uri(template: str, bundle_uri: str) -> str:
    """Address of a table of codes: ``{bundle}`` in the template becomes the short id of the bundle."""
    if BUNDLE_PLACEHOLDER not in template:
        return template
    return template.replace(BUNDLE_PLACEHOLDER, load_bundle(bundle_uri).short_id)
