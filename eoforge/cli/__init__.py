"""Command line ``eoforge``; this package alone may import ``services`` and ``pipelines``, inside functions."""

from eoforge.cli.root import app, entry, main

__all__ = ["app", "entry", "main"]
