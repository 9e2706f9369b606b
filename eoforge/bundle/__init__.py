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
from eoforge.bundle.compare import Comparison, compare_bundles
from eoforge.bundle.curves import POSITION, read_epochs, read_steps, scalar_metrics, smoothed
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
    "POSITION",
    "REQUIRED_CONFIG",
    "WEIGHTS",
    "Bundle",
    "BundleSummary",
    "Comparison",
    "code_revision",
    "compare_bundles",
    "list_bundles",
    "load_bundle",
    "model_card",
    "read_epochs",
    "read_steps",
    "require_keys",
    "scalar_metrics",
    "smoothed",
    "store_bundle",
    "training_patches",
    "write_bundle",
]
