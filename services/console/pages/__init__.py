"""Pages of the console, one module each.

A module has ``router``, and ``UPLOADS`` if some of its paths take files. Its templates lie in a folder of its name
below ``services/console/templates/``, its script beside the others in ``services/console/static/``.
"""

from __future__ import annotations

PAGES: tuple[str, ...] = ("search", "patch", "archive", "runs", "federation", "annotate")
"""Modules, in the order of their routes."""
NAV: tuple[tuple[str, str, str], ...] = (
    ("Search", "/search", "retrieval_target"),
    ("Archive", "/archive", "patches_uri"),
    ("Runs", "/runs", "runs_uri"),
    ("Federation", "/federation", "federation_target"),
    ("Annotate", "/annotate", "annotations_uri"),
)
"""Title, path, and the setting that it needs, of the pages in the navigation."""


def nav_of(settings: object) -> list[tuple[str, str]]:
    """Title and path of the pages that a console can show; of one without services and tables, all."""
    found = [(title, path) for title, path, needed in NAV if getattr(settings, needed) is not None]
    return found or [(title, path) for title, path, _ in NAV]
