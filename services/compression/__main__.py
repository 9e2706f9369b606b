"""``python -m services.compression``: serves compression with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

from services.compression.settings import CompressionSettings
from services.process import main

if __name__ == "__main__":
    main(CompressionSettings, "services.compression.server")
