"""Strategic merge as the API server and Kubeflow Trainer do it: by the merge keys in Kubernetes' own definitions."""

from __future__ import annotations

import copy
from typing import Any

from tests.charts.schemas import kubernetes_definitions

POD_SPEC = "io.k8s.api.core.v1.PodSpec"


def merge_pod(original: dict[str, Any], patch: dict[str, Any], version: str = "1.36") -> dict[str, Any]:
    """The pod fields of ``original`` with those of ``patch`` merged into them."""
    merged: dict[str, Any] = _merge(original, patch, {"$ref": f"#/$defs/{POD_SPEC}"}, version)
    return merged


def _merge(original: Any, patch: Any, schema: Any, version: str) -> Any:
    schema = _resolved(schema, version)
    if isinstance(patch, dict) and isinstance(original, dict):
        merged = copy.deepcopy(original)
        properties = schema.get("properties", {})
        for key, value in patch.items():
            merged[key] = _merge(original[key], value, properties.get(key, {}), version) if key in original else value
        return merged
    name = schema.get("x-kubernetes-patch-merge-key")
    if isinstance(patch, list) and isinstance(original, list) and name:
        items = schema["items"]
        merged_items = {item[name]: item for item in original}
        for item in patch:
            known = merged_items.get(item[name])
            merged_items[item[name]] = item if known is None else _merge(known, item, items, version)
        return list(merged_items.values())
    return patch  # atomic lists and plain values are replaced


def _resolved(schema: Any, version: str) -> Any:
    reference = schema.get("$ref", "")
    return kubernetes_definitions(version)["$defs"][reference.rpartition("/")[2]] if reference else schema
