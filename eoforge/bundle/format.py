"""Format of run bundles: file names, size limits and required configuration keys."""

from __future__ import annotations

import json
import re
from typing import Any

from eoforge.errors import BundleError

FORMAT = 1
MANIFEST, WEIGHTS, CONFIG, METRICS, CARD = (
    "manifest.json",
    "weights.safetensors",
    "config.json",
    "metrics.json",
    "README.md",
)
REQUIRED_FILES: tuple[str, ...] = (WEIGHTS, CONFIG, METRICS, CARD)

REQUIRED_CONFIG: tuple[str, ...] = (
    "method",
    "config",
    "bands",
    "normalisation",
    "interpolation",
    "seed",
    "patches",
    "code_revision",
)
"""Keys that ``config.json`` of a trained model must hold; ``require_keys`` checks them."""
ENCODER_CONFIG: tuple[str, ...] = ("bits", "embedding_dim")
"""Further keys of a model that encodes."""

MAX_WEIGHTS_BYTES = 8 << 30
MAX_FILE_BYTES = 64 << 20
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 64
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def parse_object(where: str, data: bytes) -> dict[str, Any]:
    """JSON object of a file; an integer that no float holds is infinite.

    Raises:
        BundleError: The bytes are none.
    """
    try:
        value = json.loads(data, parse_int=lambda text: int(text) if len(text) < 40 else float(text))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{where} must hold a JSON object; got {type(value).__name__}")
    return value


def size_limit(name: str) -> int:
    """Largest size of a file of a bundle, in bytes."""
    return MAX_WEIGHTS_BYTES if name == WEIGHTS else MAX_FILE_BYTES
