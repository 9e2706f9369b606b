"""Table of the settings of a service in Markdown: ``python -m scripts.settings_table services.retrieval.settings``."""

from __future__ import annotations

import sys

from pydantic_core import PydanticUndefined

from scripts.chart_schema import settings_class
from services._runtime.settings import HttpSettings, RuntimeSettings


def table(module: str) -> str:
    """Table of the settings class in ``module``, settings of the service before shared settings."""
    settings = settings_class(module)
    shared = RuntimeSettings.model_fields if issubclass(settings, RuntimeSettings) else HttpSettings.model_fields
    fields = settings.model_fields
    names = [n for n in fields if n not in shared] + [n for n in fields if n in shared]
    lines = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name in names:
        field = fields[name]
        default = "required" if field.default is PydanticUndefined else "" if field.default is None else field.default
        lines.append(f"| `{settings.model_config['env_prefix']}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1]))
