"""Makes each chart's ``values.schema.json`` and the table of values in its README from its ``values.yaml``.

    python -m scripts.chart_schema [--check]

A value is documented where it is set: the comment above a key is its description, and a commented key is a leaf whose
content is free unless a ``# @schema {...}`` line says more, or ``# @type NAME`` names a type of Kubernetes
(``chart_types.py``). ``# @settings MODULE`` fills an object with the fields of a service's settings class, so charts
and services cannot drift apart. The templates refuse unknown keys and name the nearest one that there is: the list of
keys in ``templates/_keys.tpl`` comes from here too.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scripts.chart_types import TYPES

CHARTS = Path(__file__).resolve().parents[1] / "charts"
MARKER = "<!-- values: made by `python -m scripts.chart_schema` -->"
KEYS_HEAD = "{{/* Values that this chart knows; made by `python -m scripts.chart_schema`. */}}\n"
FROM_CHART = frozenset(
    {"host", "port", "rest_port", "health_port", "silo_port", "insecure"}
    | {"tls_cert_file", "tls_key_file", "tls_client_ca_file", "otlp_endpoint"}
    | {"token_key_file", "token_algorithm", "token_audience", "token_issuer"}
    | {"upstreams", "partners"}
)
"""Settings that the templates derive from other values: ports, TLS, tokens, traces, other owners."""
WEB_FROM_CHART = frozenset({"token", "oidc_client_secret_file", "session_key_file", "service_ca_file"})
"""Settings of the web console that are secrets: their files are mounted, and a token for everyone is for a laptop."""
_KEY = re.compile(r"^( *)([A-Za-z][\w-]*):(?: |$)")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


@dataclass
class Leaf:
    """One documented value.

    Attributes:
        path: Keys from the root.
        description: The comment.
        extra: What ``@schema`` lines add.
        type: Name of ``@type``, or empty.
        settings: Module of ``@settings``, or empty.
    """

    path: tuple[str, ...]
    description: str
    extra: dict[str, Any] = field(default_factory=dict)
    type: str = ""
    settings: str = ""


def leaves(text: str) -> list[Leaf]:
    """The documented values of a ``values.yaml``, in its order."""
    found: list[Leaf] = []
    stack: list[tuple[int, str]] = []
    comments: list[str] = []
    leaf_indent: int | None = None
    for line in text.splitlines():
        if not line.strip():
            comments = []
            continue
        indent = len(line) - len(line.lstrip())
        if leaf_indent is not None and (indent > leaf_indent or line.lstrip().startswith("- ")):
            continue
        if line.lstrip().startswith("#"):
            comments.append(line.strip().lstrip("#").strip())
            continue
        match = _KEY.match(line)
        if match is None:
            raise SystemExit(f"expected `key: value` or a comment; got {line!r}")
        leaf_indent = None
        while stack and stack[-1][0] >= indent:
            stack.pop()
        stack.append((indent, match.group(2)))
        if comments:
            leaf = Leaf(tuple(key for _, key in stack), "")
            words = []
            for comment in comments:
                if comment.startswith("@schema "):
                    leaf.extra |= json.loads(comment.removeprefix("@schema "))
                elif comment.startswith("@type "):
                    leaf.type = comment.removeprefix("@type ")
                elif comment.startswith("@settings "):
                    leaf.settings = comment.removeprefix("@settings ")
                else:
                    words.append(comment)
            leaf.description = " ".join(words)
            found.append(leaf)
            comments, leaf_indent = [], indent
    return found


def undocumented(values: Any, documented: list[Leaf], path: tuple[str, ...] = ()) -> list[str]:
    """Values that no comment describes."""
    if path in {leaf.path for leaf in documented}:
        return []
    if not isinstance(values, dict) or not values:
        return [".".join(path)]
    return [name for key, value in values.items() for name in undocumented(value, documented, (*path, key))]


def settings_schema(module: str) -> dict[str, Any]:
    """The object of settings that a chart passes on; open as long as the service does not exist."""
    if importlib.util.find_spec(module.rpartition(".")[0]) is None or importlib.util.find_spec(module) is None:
        return {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    cls = settings_class(module)
    properties = {}
    for name, found in cls.model_json_schema()["properties"].items():
        if name in FROM_CHART | WEB_FROM_CHART:
            continue
        kinds = [kind for kind in found.get("anyOf", [found]) if kind.get("type") != "null"]
        kept = {k: v for k, v in kinds[0].items() if k not in ("title", "default", "format", "description")}
        default = found.get("default")
        note = "" if default in (None, "") else f" Default: {default}."
        properties[camel(name)] = {"description": found["description"] + note} | kept
    return {"type": "object", "properties": properties}


def settings_class(module: str) -> Any:
    """The settings class that ``module`` defines."""
    from services._runtime.settings import HttpSettings

    (cls,) = (
        value
        for value in vars(importlib.import_module(module)).values()
        if inspect.isclass(value) and issubclass(value, HttpSettings) and value.__module__ == module
    )
    return cls


def camel(name: str) -> str:
    """``codes_uri`` to ``codesUri``; the templates turn it back."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def schema(chart: Path) -> dict[str, Any]:
    """The schema of one chart's values.

    Raises:
        SystemExit: A value has no description.
    """
    text = (chart / "values.yaml").read_text()
    values, documented = yaml.safe_load(text), leaves(text)
    if missing := undocumented(values, documented):
        raise SystemExit(f"{chart.name}/values.yaml: every value needs a comment; these have none: {missing}")
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Values of {chart.name}",
        "type": "object",
        "properties": {},
    }
    for leaf in documented:
        node, value = root, values
        for key in leaf.path[:-1]:
            node, value = node["properties"].setdefault(key, {"type": "object", "properties": {}}), value[key]
        made: dict[str, Any] = {"description": leaf.description, "type": _TYPES[type(value[leaf.path[-1]])]}
        if made["type"] == "array":
            made["items"] = {"type": "object"}  # what Kubernetes takes as it is; names say so by @schema
        made |= settings_schema(leaf.settings) if leaf.settings else {}
        if leaf.type:
            root.setdefault("$defs", {})[leaf.type] = TYPES[leaf.type]
            made = {"description": leaf.description, "$ref": f"#/$defs/{leaf.type}"}
        node["properties"][leaf.path[-1]] = made | leaf.extra
    # Helm hands a chart the values of its dependencies too; those check their own.
    for dependency in yaml.safe_load((chart / "Chart.yaml").read_text()).get("dependencies", []):
        root["properties"].setdefault(dependency.get("alias", dependency["name"]), {"type": "object"})
        for imported in dependency.get("import-values", []):
            exported = yaml.safe_load((_home(chart, dependency) / "values.yaml").read_text())
            target = root["properties"][imported["parent"]]["properties"]
            target |= {key: {"type": "object"} for key in exported[imported["child"]]}
    return root


def keys(chart: Path) -> list[str]:
    """Paths of all values that a chart knows, settings included."""
    found = []
    for leaf in leaves((chart / "values.yaml").read_text()):
        path = ".".join(leaf.path)
        of_settings = settings_schema(leaf.settings).get("properties", {}) if leaf.settings else {}
        found += [f"{path}.{name}" for name in of_settings] or [path]
    for dependency in yaml.safe_load((chart / "Chart.yaml").read_text()).get("dependencies", []):
        for imported in dependency.get("import-values", []):
            exports = yaml.safe_load((_home(chart, dependency) / "values.yaml").read_text())[imported["child"]]
            found += [f"{imported['parent']}.{key}" for key in exports]
    return found


def _home(chart: Path, dependency: dict[str, Any]) -> Path:
    """Folder of a dependency."""
    return chart / str(dependency["repository"]).removeprefix("file://")


def table(chart: Path) -> str:
    """The values as a Markdown table."""
    text = (chart / "values.yaml").read_text()
    values = yaml.safe_load(text)
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    for leaf in leaves(text):
        value = values
        for key in leaf.path:
            value = value[key]
        name = ".".join(leaf.path)
        default = "" if value in ("", None) else f"`{json.dumps(value)}`"
        lines.append(f"| `{name}` | {default} | {leaf.description.replace('|', chr(92) + '|')} |")
        if leaf.settings:
            for key, found in settings_schema(leaf.settings).get("properties", {}).items():
                lines.append(f"| `{name}.{key}` | | {found['description'].replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def generated(chart: Path) -> dict[Path, str]:
    """Files of a chart and the content that they should have."""
    readme = chart / "README.md"
    head = readme.read_text().partition(MARKER)[0] if readme.exists() else f"# {chart.name}\n\n## Values\n\n"
    listed = "\n".join(f"- {key}" for key in keys(chart))
    return {
        chart
        / "templates"
        / "_keys.tpl": f'{KEYS_HEAD}{{{{- define "{chart.name}.keys" -}}}}\n{listed}\n{{{{- end -}}}}\n',
        chart / "values.schema.json": json.dumps(schema(chart), indent=2) + "\n",
        readme: f"{head}{MARKER}\n\n{table(chart)}\n",
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.chart_schema", description="Make schemas and value tables."
    )
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    check = parser.parse_args(argv).check
    stale = []
    for chart in sorted(path.parent for path in CHARTS.glob("*/values.yaml")):
        for path, content in generated(chart).items():
            if not path.exists() or path.read_text() != content:
                stale.append(str(path.relative_to(CHARTS.parent)))
                if not check:
                    path.write_text(content)
    if stale:
        print(("stale: " if check else "written: ") + ", ".join(stale), file=sys.stderr)
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
