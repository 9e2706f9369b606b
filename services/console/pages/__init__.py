"""Pages of the console, one module each.

A module has ``router``, and ``UPLOADS`` if some of its paths take files. Its templates lie in a folder of its name
below ``services/console/templates/``, its script beside the others in ``services/console/static/``.
"""

from __future__ import annotations

PAGES: tuple[str, ...] = ("search", "patch", "archive", "runs", "federation", "annotate")
"""Modules, in the order of their routes."""
NAV: tuple[tuple[str, str], ...] = (
    ("Search", "/search"),
    ("Archive", "/archive"),
    ("Runs", "/runs"),
    ("Federation", "/federation"),
    ("Annotate", "/annotate"),
)
"""Title and path of the pages in the navigation."""
