"""Types of values that Kubernetes objects are made of, as JSON schemas: ``# @type NAME`` in a chart's ``values.yaml``.

A value that an API server would refuse is refused before anything is installed, by its name. Patterns and bounds are
those of Kubernetes' validation: names are RFC 1123, quantities and durations as its parsers read them.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_QUANTITY = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?"
_IPV4 = r"((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
# Those that the templates write: a second one would be a duplicate key, or a pod that no Service selects.
_OWN_LABELS = r"^(app\.kubernetes\.io/(name|instance|component|part-of|managed-by|version)|helm\.sh/chart)$"


def text(pattern: str, *, most: int = 253, empty: bool = True) -> Schema:
    """A text of one form, or nothing."""
    return {"type": "string", "pattern": f"^({pattern}){'?' if empty else ''}$", "maxLength": most}


def fields(required: str = "", **properties: Schema) -> Schema:
    """A closed object; ``required`` names fields separated by blanks."""
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return found | ({"required": required.split()} if required else {})


def items(of: Schema, **bounds: int) -> Schema:
    """A list."""
    return {"type": "array", "items": of, **bounds}


def table(values: Schema, keys: str = _QUALIFIED) -> Schema:
    """An object with free keys of one form. By patterns: an error of ``propertyNames`` would not say where."""
    return {"type": "object", "patternProperties": {f"^{keys}$": values}, "additionalProperties": False}


def number(least: int, most: int = 2**31 - 1) -> Schema:
    """A whole number."""
    return {"type": "integer", "minimum": least, "maximum": most}


TEXT: Schema = {"type": "string"}
NAME = text(_SUBDOMAIN)
REQUIRED_NAME = text(_SUBDOMAIN, empty=False)
KEY = text(r"[-._a-zA-Z0-9]+", empty=False)
QUANTITY: Schema = {"type": ["string", "number"], "pattern": f"^{_QUANTITY}$", "minimum": 0}
LABELS = table(text(_LABEL_VALUE, most=63, empty=False))
LABELS["patternProperties"][_OWN_LABELS] = False
SELECTOR_LABELS = table(text(_LABEL_VALUE, most=63, empty=False))
ANNOTATIONS = table(TEXT)
QUANTITIES = table(QUANTITY)
HOST = text(rf"(\*\.)?{_SUBDOMAIN}", empty=False)
PORT_OR_NAME: Schema = {
    "anyOf": [number(1, 65535), {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 15}]
}
CIDR: Schema = {
    "type": "string",
    "pattern": rf"^({_IPV4}/(3[0-2]|[12]?[0-9])|[0-9a-fA-F]*:[0-9a-fA-F:.]*/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))$",
}
_EXPRESSION = fields(
    "key operator",
    key=text(_QUALIFIED, most=317, empty=False),
    operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
    values=items(text(_LABEL_VALUE, most=63, empty=False)),
)
_SELECTOR = fields(matchLabels=SELECTOR_LABELS, matchExpressions=items(_EXPRESSION))
_PEER = fields(
    namespaceSelector=_SELECTOR, podSelector=_SELECTOR, ipBlock=fields("cidr", cidr=CIDR, **{"except": items(CIDR)})
) | {"minProperties": 1}
_NETWORK_PORT = fields(port=PORT_OR_NAME, endPort=number(1, 65535), protocol={"enum": ["TCP", "UDP", "SCTP"]})
_NODE_EXPRESSION = fields(
    "key operator",
    key=text(_QUALIFIED, most=317, empty=False),
    operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
    values=items(TEXT),
)
_NODE_TERM = fields(matchExpressions=items(_NODE_EXPRESSION), matchFields=items(_NODE_EXPRESSION))
_POD_TERM = fields(
    "topologyKey",
    labelSelector=_SELECTOR,
    namespaceSelector=_SELECTOR,
    namespaces=items(text(_LABEL, most=63, empty=False)),
    topologyKey=text(_QUALIFIED, most=317, empty=False),
    matchLabelKeys=items(TEXT),
    mismatchLabelKeys=items(TEXT),
)
_POD_AFFINITY = fields(
    requiredDuringSchedulingIgnoredDuringExecution=items(_POD_TERM),
    preferredDuringSchedulingIgnoredDuringExecution=items(
        fields("weight podAffinityTerm", weight=number(1, 100), podAffinityTerm=_POD_TERM)
    ),
)
_KEY_OF = fields("name key", name=REQUIRED_NAME, key=KEY, optional={"type": "boolean"})
_PATHS = items(fields("key path", key=KEY, path=TEXT, mode=number(0, 0o777)))
_MODE = number(0, 0o777)
_OPTIONAL: Schema = {"type": "boolean"}
_DOWNWARD = items(
    fields(
        "path",
        path=TEXT,
        mode=_MODE,
        fieldRef=fields("fieldPath", fieldPath=TEXT, apiVersion=TEXT),
        resourceFieldRef=fields("resource", resource=TEXT, containerName=TEXT, divisor=QUANTITY),
    )
)
_PROJECTED = fields(
    secret=fields("name", name=REQUIRED_NAME, items=_PATHS, optional=_OPTIONAL),
    configMap=fields("name", name=REQUIRED_NAME, items=_PATHS, optional=_OPTIONAL),
    downwardAPI=fields(items=_DOWNWARD),
    serviceAccountToken=fields("path", path=TEXT, audience=TEXT, expirationSeconds=number(600, 2**32)),
)
# The kinds that Pod Security "restricted" admits, and one source each.
_SOURCES: dict[str, Schema] = {
    "configMap": fields("name", name=REQUIRED_NAME, items=_PATHS, defaultMode=_MODE, optional=_OPTIONAL),
    "csi": {"type": "object", "required": ["driver"]},
    "downwardAPI": fields(items=_DOWNWARD, defaultMode=_MODE),
    "emptyDir": fields(medium={"type": "string", "pattern": "^(|Memory|HugePages.*)$"}, sizeLimit=QUANTITY),
    "ephemeral": {"type": "object", "required": ["volumeClaimTemplate"]},
    "persistentVolumeClaim": fields("claimName", claimName=REQUIRED_NAME, readOnly=_OPTIONAL),
    "projected": fields("sources", sources=items(_PROJECTED), defaultMode=_MODE),
    "secret": fields("secretName", secretName=REQUIRED_NAME, items=_PATHS, defaultMode=_MODE, optional=_OPTIONAL),
}
_VOLUME = fields("name", name=text(_LABEL, most=63, empty=False), **_SOURCES) | {"minProperties": 2, "maxProperties": 2}
_MOUNT = fields(
    "name mountPath",
    name=text(_LABEL, most=63, empty=False),
    mountPath={"type": "string", "pattern": "^/[^:]*$"},
    subPath={"type": "string", "not": {"pattern": r"^/|\.\."}},
    subPathExpr=TEXT,
    readOnly=_OPTIONAL,
    mountPropagation={"enum": ["None", "HostToContainer"]},
)
_VARIABLE = fields(
    "name",
    name={"type": "string", "pattern": "^[^=\\x00-\\x1f]+$"},
    value=TEXT,
    valueFrom=fields(
        secretKeyRef=_KEY_OF,
        configMapKeyRef=_KEY_OF,
        fieldRef=fields("fieldPath", fieldPath=TEXT, apiVersion=TEXT),
        resourceFieldRef=fields("resource", resource=TEXT, containerName=TEXT, divisor=QUANTITY),
    )
    | {"minProperties": 1, "maxProperties": 1},
) | {"not": {"required": ["value", "valueFrom"]}}
_EXISTS: Schema = {"required": ["operator"], "properties": {"operator": {"const": "Exists"}}}
_EVICTS: Schema = {"required": ["effect"], "properties": {"effect": {"const": "NoExecute"}}}
_TOLERATION = fields(
    key=text(_QUALIFIED, most=317),
    operator={"enum": ["Exists", "Equal"]},
    value=text(_LABEL_VALUE, most=63, empty=False),
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
    tolerationSeconds={"type": "integer"},
) | {
    "allOf": [
        {"if": _EXISTS, "then": {"not": {"required": ["value"]}}},
        {"if": {"required": ["tolerationSeconds"]}, "then": _EVICTS},
        {"anyOf": [{"required": ["key"]}, _EXISTS]},
    ]
}
_PROBE = fields(
    periodSeconds=number(1),
    timeoutSeconds=number(1),
    failureThreshold=number(1),
    initialDelaySeconds=number(0),
    successThreshold=number(1),
    terminationGracePeriodSeconds=number(1),
)
_DURATION = r"([0-9]+(ms|s|m|h|d|w|y))+"
_RULE = fields(
    "expr",
    alert=TEXT,
    record=TEXT,
    expr={"type": "string", "minLength": 1},
    labels=table(TEXT, "[a-zA-Z_][a-zA-Z0-9_]*"),
    annotations=table(TEXT, "[a-zA-Z_][a-zA-Z0-9_]*"),
    keep_firing_for=text(_DURATION, empty=False),
    **{"for": text(_DURATION, empty=False)},
) | {"oneOf": [{"required": ["alert"]}, {"required": ["record"]}]}
_PARENT = fields(
    "name",
    name=REQUIRED_NAME,
    namespace=text(_LABEL, most=63, empty=False),
    sectionName=REQUIRED_NAME,
    port=number(1, 65535),
    group=text(_SUBDOMAIN),
    kind=text("[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?", most=63, empty=False),
)

_SECCOMP = fields(
    "type", type={"enum": ["RuntimeDefault", "Localhost", "Unconfined"]}, localhostProfile={"type": "string"}
)
_SELINUX = fields(user=TEXT, role=TEXT, type=TEXT, level=TEXT)
_CONTAINER: Schema = {
    "type": "object",
    "required": ["name", "image"],
    "properties": {
        "name": text(_LABEL, most=63, empty=False),
        "image": {"type": "string", "minLength": 1},
        "env": items(_VARIABLE),
        "volumeMounts": items(_MOUNT),
        "resources": fields(requests=QUANTITIES, limits=QUANTITIES),
    },
}
_HOST_AND_PATH = r"[a-z0-9][-a-z0-9.]*(:[0-9]+)?(/[a-z0-9._-]+)*"
_TAG = "[A-Za-z0-9_][-A-Za-z0-9_.]{0,127}"
_DIGEST = "sha256:[0-9a-f]{64}"
_PERCENT: Schema = {"type": "string", "pattern": "^(100|[1-9]?[0-9])%$"}

_USERS: dict[str, Schema] = {
    "runAsUser": number(0),
    "runAsGroup": number(0),
    "runAsNonRoot": {"type": "boolean"},
    "seccompProfile": _SECCOMP,
    "seLinuxOptions": _SELINUX,
    "appArmorProfile": _SECCOMP,
}
_OWNER = text(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", most=63, empty=False)
_HOST_AND_PORT = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
_SECONDS: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 60}
_ALL_OR_NAMES: Schema = {"anyOf": [{"const": "all"}, items({"type": "string", "pattern": "^[a-z0-9_]+$"})]}
_ADDED = items({"type": "string", "pattern": "^[A-Z_]+$"})

TYPES: dict[str, Schema] = {
    "affinity": fields(
        nodeAffinity=fields(
            requiredDuringSchedulingIgnoredDuringExecution=fields(
                "nodeSelectorTerms", nodeSelectorTerms=items(_NODE_TERM, minItems=1)
            ),
            preferredDuringSchedulingIgnoredDuringExecution=items(
                fields("weight preference", weight=number(1, 100), preference=_NODE_TERM)
            ),
        ),
        podAffinity=_POD_AFFINITY,
        podAntiAffinity=_POD_AFFINITY,
    ),
    "address": {"type": "string", "pattern": rf"^({_IPV4}|[0-9a-fA-F]*:[0-9a-fA-F:.]*)$"},
    "annotations": ANNOTATIONS,
    "bucket": text("[a-z0-9][-a-z0-9.]{1,61}[a-z0-9]", most=63),
    "cidrs": items(CIDR),
    "class": text(_QUALIFIED, most=317),
    "container-security": fields(
        "",
        **_USERS,
        allowPrivilegeEscalation={"type": "boolean"},
        privileged={"type": "boolean"},
        readOnlyRootFilesystem={"type": "boolean"},
        capabilities=fields(add=_ADDED, drop=_ADDED),
    ),
    "containers": items(_CONTAINER),
    "count": number(1),
    "digest": text(_DIGEST),
    "dns": fields(
        nameservers=items({"type": "string", "pattern": rf"^({_IPV4}|[0-9a-fA-F]*:[0-9a-fA-F:.]*)$"}, maxItems=3),
        searches=items(text(_SUBDOMAIN + r"\.?", empty=False), maxItems=32),
        options=items(fields("name", name={"type": "string", "minLength": 1}, value=TEXT)),
    ),
    "duration": text(_DURATION, empty=False),
    "egress": items(fields(ports=items(_NETWORK_PORT), to=items(_PEER))),
    "env": items(_VARIABLE),
    "hosts": items(HOST, maxItems=16),
    "image": text(f"{_HOST_AND_PATH}(:{_TAG})?(@{_DIGEST})?", most=512, empty=False),
    "key": KEY,
    "label": text(_LABEL, most=63),
    "labels": LABELS,
    "least-zero": number(0),
    "manifests": items(
        {
            "type": "object",
            "required": ["apiVersion", "kind", "metadata"],
            "properties": {
                "apiVersion": {"type": "string", "minLength": 1},
                "kind": {"type": "string", "minLength": 1},
                "metadata": {"type": "object", "required": ["name"]},
            },
        }
    ),
    "mounts": items(_MOUNT),
    "name": NAME,
    "names": items(REQUIRED_NAME),
    "node-selector": SELECTOR_LABELS,
    "object-name": text("[a-z]([-a-z0-9]*[a-z0-9])?", most=63),
    "partners": items(
        fields(
            "caller",
            caller={"type": "string", "minLength": 1, "maxLength": 256},
            fields=_ALL_OR_NAMES,
            filters=_ALL_OR_NAMES,
            maxHits=number(1, 1000),
            quotaPerSecond={"type": "number", "exclusiveMinimum": 0, "maximum": 1e9},
            quotaBurst=number(1, 10**9),
            distanceStep=number(1, 512),
        ),
        maxItems=1024,
    ),
    "parents": items(_PARENT, maxItems=32),
    "peers": items(_PEER),
    "pod-security": fields(
        "",
        **_USERS,
        fsGroup=number(0),
        fsGroupChangePolicy={"enum": ["Always", "OnRootMismatch"]},
        supplementalGroups=items(number(0)),
        sysctls=items(fields("name value", name=TEXT, value=TEXT)),
    ),
    "probe": _PROBE,
    "probe-once": _PROBE | {"properties": {**_PROBE["properties"], "successThreshold": {"const": 1}}},
    "quantity": QUANTITY,
    "quantity-or-none": {"type": ["string", "number"], "pattern": f"^({_QUANTITY})?$", "minimum": 0},
    "region": text("[A-Za-z0-9][-A-Za-z0-9]*"),
    "registry": text(_HOST_AND_PATH),
    "repository": text(r"[a-z0-9]+([._/-]+[a-z0-9]+)*", empty=False),
    "required-name": REQUIRED_NAME,
    "resources": fields(requests=QUANTITIES, limits=QUANTITIES),
    "rules": items(_RULE),
    "share": {"anyOf": [number(0), _PERCENT]},
    "strategy": fields(
        type={"enum": ["RollingUpdate", "Recreate"]},
        rollingUpdate=fields(
            maxUnavailable={"anyOf": [number(0), _PERCENT]}, maxSurge={"anyOf": [number(0), _PERCENT]}
        ),
    ),
    "tag": text(_TAG, most=128),
    "tolerations": items(_TOLERATION),
    "topology": text(_QUALIFIED, most=317, empty=False),
    "upstreams": items(
        fields(
            "owner address",
            owner=_OWNER,
            address=text(_HOST_AND_PORT, most=300, empty=False),
            publicAddress=text(_HOST_AND_PORT, most=300),
            tls={"type": "boolean"},
            caSecret=NAME,
            clientCertSecret=NAME,
            tokenSecret=NAME,
            deadlineSeconds=_SECONDS,
            hedgeSeconds=_SECONDS,
            attempts=number(1, 10),
            maxAnswerBytes=number(4096, 64 << 20),
            maxCalls=number(1, 4096),
            skipAfter=number(1, 1000),
            skipSeconds={"type": "number", "exclusiveMinimum": 0, "maximum": 3600},
        ),
        maxItems=64,
    ),
    "volumes": items(_VOLUME),
}  # fmt: skip
"""By the names that ``values.yaml`` uses."""
