"""``python -m services.compression``: serves compression with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

import sys

from eoforge.errors import EoforgeError
from services.compression.settings import CompressionSettings

if __name__ == "__main__":
    try:
        settings = CompressionSettings()
        settings.require_consistent()
        from services.compression.server import run  # seconds of imports, which wrong settings need not wait for

        run(settings)
    except EoforgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
