"""``python -m services.compression``: serves compression with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

from services._runtime.process import main
from services.compression.settings import CompressionSettings

if __name__ == "__main__":
    main(CompressionSettings, "services.compression.server")
