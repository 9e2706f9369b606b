"""Templates: one environment, with what every page knows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eoforge.errors import UsageError
from services.console.pages import nav_of
from services.console.session import CSRF_FIELD, CSRF_HEADER, Session
from services.console.settings import ConsoleSettings

FOLDER = Path(__file__).parent
STATIC, TEMPLATES = FOLDER / "static", FOLDER / "templates"
VERSION = version("eoforge")

ASSETS = ("htmx.min.js", "leaflet.js", "leaflet.css", "uPlot.iife.min.js", "uPlot.min.css")
"""Files of other projects that pages load; ``scripts/console_assets.py`` fetches them."""


def without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Names but one."""
    return tuple(other for other in names if other != name)


def toggled(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Names with one more, or without it if it is there."""
    return without(names, name) if name in names else (*names, name)


_environment = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.globals |= {"toggled": toggled, "without": without}
_environment.globals |= {"version": VERSION, "csrf_header": CSRF_HEADER, "infinity": math.inf}


def finite(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, which has neither NaN nor infinity."""
    return [float(value) if math.isfinite(value) else None for value in values]


def require_assets() -> None:
    """Refuses to serve pages without their scripts.

    Raises:
        UsageError: Some are missing.
    """
    missing = [name for name in ASSETS if not (STATIC / "vendor" / name).is_file()]
    if missing:
        raise UsageError(f"the console lacks {', '.join(missing)}: run `python -m scripts.console_assets` once")


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Answer of a template, with all text escaped.

    Every template knows ``csrf`` (the session's token), ``csrf_input()`` (the field with it that every form holds),
    ``person`` (name of the signed-in person or empty), ``path``, ``nav`` (title and path of each page), ``settings``,
    ``version`` and ``request_id``.

    Args:
        request: The request.
        template: Path below ``templates``.
        status: HTTP status.
        values: What else the template knows.
    """
    return HTMLResponse(part(request, template, **values), status_code=status)


def part(request: Request, template: str, **values: Any) -> str:
    """Text of a template, for a part of a page; see :func:`page`."""
    session: Session = request.state.session
    settings: ConsoleSettings = request.app.state.settings
    known = {
        "csrf": session.csrf,
        "csrf_input": lambda: Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, session.csrf),
        "person": session.name,
        "path": request.url.path,
        "nav": nav_of(settings),
        "settings": settings,
        "request_id": request.state.request_id,
    }
    return _environment.get_template(template).render(known | values)
