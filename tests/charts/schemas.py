"""Strict schemas of everything that the charts render: Kubernetes, KServe, Kubeflow, Gateway API, operators."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import jsonschema
import kserve
import kubernetes.client.models as kubernetes_models
from kubeflow_trainer_api import models as trainer_models
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from tests.charts.contracts import contract_validator

KUBERNETES = ("1.29", "1.32", "1.36")
_SCALARS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "datetime": "string"}
_RENAMED = {"K8sIoApiAppsV1DeploymentStrategy": "V1DeploymentStrategy"}
_TRAINER = {
    "TrainingRuntime": trainer_models.TrainerV1alpha1TrainingRuntime,
    "TrainJob": trainer_models.TrainerV1alpha1TrainJob,
}
# Models derived from the operators' own definitions, imported when asked for: it takes seconds.
_OPERATORS = {
    "Certificate": "cloudcoil.models.cert_manager.v1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
}
_KSERVE = {
    "InferenceService": kserve.V1beta1InferenceService,
}


def problems(found: dict[str, Any], version: str) -> list[str]:
    """What is wrong with one object on one Kubernetes version; unknown fields are wrong."""
    group = found["apiVersion"].rpartition("/")[0]
    if group == "serving.kserve.io":
        return _errors(kserve_validator(found["kind"]), found)
    if group == "trainer.kubeflow.org":
        return trainer_problems(found)
    if found["kind"] in _OPERATORS:
        return _errors(operator_validator(found["kind"]), found)
    if contract := contract_validator(found["kind"]):
        return _errors(contract, found)
    return _errors(kubernetes_validator(found["apiVersion"], found["kind"], version), found)


def _errors(validator: Any, found: dict[str, Any]) -> list[str]:
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in validator.iter_errors(found)]


@cache
def kubernetes_definitions(version: str) -> Any:
    """All definitions of one version, parsed once: they are 2 MB."""
    return schema_contents(f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json", version)


@cache
def kubernetes_validator(api_version: str, kind: str, version: str) -> jsonschema.Draft202012Validator:
    """Validator of a built-in kind; unknown fields are errors.

    Raises:
        FileNotFoundError: This version of Kubernetes has no such kind.
    """
    group, _, api = api_version.rpartition("/")
    name = f"{kind.lower()}-{group.partition('.')[0]}-{api}" if group else f"{kind.lower()}-{api}"
    schema = schema_contents(f"kubernetes-json-schema/v{version}.0-local-strict/{name}.json", version)
    definitions = Resource.from_contents(kubernetes_definitions(version))
    registry: Registry[Any] = definitions @ (Resource.from_contents(schema) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def kserve_validator(kind: str) -> jsonschema.Draft202012Validator:
    """Validator made of the model classes of KServe's SDK and of the Kubernetes client."""
    definitions: dict[str, Any] = {}
    root = _model(_KSERVE[kind].__name__, definitions)
    return jsonschema.Draft202012Validator({**root, "$defs": definitions})


def _model(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Reference to the schema of a model class, which is added to ``definitions``."""
    if name not in definitions:
        cls = getattr(kserve, name, None) or getattr(kubernetes_models, name)
        definitions[name] = {}  # models refer to each other in circles
        types, names = cls.openapi_types, cls.attribute_map
        properties = {names[attribute]: _type(declared, definitions) for attribute, declared in types.items()}
        definitions[name] = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"$ref": f"#/$defs/{name}"}


def _type(declared: str, definitions: dict[str, Any]) -> dict[str, Any]:
    if declared.startswith("list["):
        return {"type": "array", "items": _type(declared[5:-1], definitions)}
    if declared.startswith("dict("):
        return {"type": "object", "additionalProperties": _type(declared[5:-1].split(", ", 1)[1], definitions)}
    if declared in _SCALARS:
        return {"type": _SCALARS[declared]}
    if declared in ("object", "IntOrString", "ResourceQuantity") or declared.startswith("IoK8s"):
        return {"type": ["object", "string", "integer", "number"]}
    declared = _RENAMED.get(declared, declared)
    if not (hasattr(kserve, declared) or hasattr(kubernetes_models, declared)):
        return {}  # types of other packages: KServe names them and does not ship them
    return _model(declared, definitions)


@cache
def operator_validator(kind: str) -> jsonschema.Draft202012Validator:
    """Validator of a kind of cert-manager, KEDA or the Prometheus Operator; unknown fields are errors."""
    schema = getattr(import_module(_OPERATORS[kind]), kind).model_json_schema(by_alias=True)
    _close(schema)
    return jsonschema.Draft202012Validator(schema)


def _close(node: Any) -> None:
    if isinstance(node, dict):
        if "properties" in node:
            node.setdefault("additionalProperties", False)
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            _close(part)


def trainer_problems(found: dict[str, Any]) -> list[str]:
    """Types by pydantic; unknown fields by comparing with what comes back, for the models drop them silently."""
    model = _TRAINER[found["kind"]]
    try:
        kept = model.from_dict(found).to_dict()  # type: ignore[union-attr]  # from_dict returns None for None alone
    except ValueError as error:
        return [str(error)]
    return _dropped(found, kept, "")


def _dropped(given: Any, kept: Any, path: str) -> list[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        lost = [f"{path}/{key}: unknown field" for key in given.keys() - kept.keys() if given[key] not in ({}, [])]
        return lost + [
            p for key in given.keys() & kept.keys() for p in _dropped(given[key], kept[key], f"{path}/{key}")
        ]
    if isinstance(given, list) and isinstance(kept, list):
        return [p for i, (a, b) in enumerate(zip(given, kept, strict=True)) for p in _dropped(a, b, f"{path}/{i}")]
    return []
