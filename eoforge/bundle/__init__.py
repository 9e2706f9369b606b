"""Run bundles: the result of a training run, and the start of everything after it.

A bundle is a folder, local or on S3::

    <parent>/<name>/weights.safetensors   plain tensors, never pickle
                    config.json           training settings and expected input (see ``REQUIRED_CONFIG``)
                    metrics.json          measured figures
                    README.md             model card
                    manifest.json         size and sha256 of every other file; written last

``manifest.json`` comes last: a folder without it is no bundle. The sha256 of the manifest is the id of the bundle;
equal ids mean equal bytes.
"""

from __future__ import annotations

from eoforge.bundle.card import model_card
from eoforge.bundle.format import CARD, CONFIG, ENCODER_CONFIG, MANIFEST, METRICS, REQUIRED_CONFIG, WEIGHTS
from eoforge.bundle.listing import BundleSummary, list_bundles
from eoforge.bundle.reader import Bundle, load_bundle, require_keys, training_patches
from eoforge.bundle.revision import code_revision
from eoforge.bundle.writer import store_bundle, write_bundle

__all__ = [
    "CARD",
    "CONFIG",
    "ENCODER_CONFIG",
    "MANIFEST",
    "METRICS",
    "REQUIRED_CONFIG",
    "WEIGHTS",
    "Bundle",
    "BundleSummary",
    "code_revision",
    "list_bundles",
    "load_bundle",
    "model_card",
    "require_keys",
    "store_bundle",
    "training_patches",
    "write_bundle",
]
