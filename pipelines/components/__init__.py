"""Steps of the pipelines: thin wrappers over functions of eoforge, one module per pipeline.

Modules in this package must not use ``from __future__ import annotations``: kfp reads the annotations as types.
"""
