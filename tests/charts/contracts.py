"""Written contracts of kinds whose schema no Python package ships: the fields that the charts may use, and no others.

Read from the published definitions: Gateway API 1.4/1.5 (GRPCRoute v1; TLSRoute v1, whose hostnames are required; there
are derived models for JavaScript only) and Kubeflow Pipelines 2.17 (kfp writes the objects and has no models of them).
"""

from __future__ import annotations

from typing import Any

import jsonschema

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+$"}
HOST: Schema = {"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
FREE: Schema = {"type": "object", "minProperties": 1}


def fields(required: str = "", **properties: Schema) -> Schema:
    """A closed object; ``required`` names fields separated by blanks."""
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


def items(of: Schema, least: int = 1, most: int = 100) -> Schema:
    """A list."""
    return {"type": "array", "items": of, "minItems": least, "maxItems": most}


def kind(api_version: str | list[str], spec: Schema) -> Schema:
    """A whole object."""
    versions = [api_version] if isinstance(api_version, str) else api_version
    name = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
    metadata = fields("name namespace labels", name=name, namespace=TEXT, labels=LABELS, annotations=LABELS)
    return fields(
        "apiVersion kind metadata spec", apiVersion={"enum": versions}, kind=TEXT, metadata=metadata, spec=spec
    )


_PARENTS = items(fields("name", name=TEXT, namespace=TEXT, sectionName=TEXT, port=PORT), most=32)
_BACKENDS = items(fields("name port", name=TEXT, port=PORT), most=16)
_MATCHES = items(fields("method", method=fields("type service", type={"const": "Exact"}, service=TEXT)), most=8)
_GATEWAY = "gateway.networking.k8s.io"

CONTRACTS: dict[str, Schema] = {
    "GRPCRoute": kind(
        f"{_GATEWAY}/v1",
        fields(
            "parentRefs rules",
            parentRefs=_PARENTS,
            hostnames=items(HOST, most=16),
            rules=items(fields("backendRefs", backendRefs=_BACKENDS, matches=_MATCHES), most=16),
        ),
    ),
    "HTTPRoute": kind(
        f"{_GATEWAY}/v1",
        fields(
            "parentRefs rules",
            parentRefs=_PARENTS,
            hostnames=items(HOST, most=16),
            rules=items(fields("backendRefs", backendRefs=_BACKENDS), most=16),
        ),
    ),
    "TLSRoute": kind(
        [f"{_GATEWAY}/v1", f"{_GATEWAY}/v1alpha3", f"{_GATEWAY}/v1alpha2"],
        fields(
            "parentRefs hostnames rules",
            parentRefs=_PARENTS,
            hostnames=items(HOST, most=16),
            rules=items(fields("backendRefs", backendRefs=_BACKENDS), most=1),
        ),
    ),
    "Pipeline": kind("pipelines.kubeflow.org/v2beta1", fields("", displayName=TEXT, description=TEXT)),
    "PipelineVersion": kind(
        "pipelines.kubeflow.org/v2beta1",
        fields(
            "pipelineName pipelineSpec",
            displayName=TEXT,
            description=TEXT,
            pipelineName=TEXT,
            pipelineSpec=FREE,  # test_kubeflow.py parses it as the protocol buffer that Kubeflow reads
            platformSpec=FREE,
        ),
    ),
}


def contract_validator(name: str) -> jsonschema.Draft202012Validator | None:
    """Validator of one kind, or None if there is no contract for it."""
    schema = CONTRACTS.get(name)
    return None if schema is None else jsonschema.Draft202012Validator(schema)
