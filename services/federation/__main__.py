"""``python -m services.federation``: serves federation with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

import sys

from eoforge.errors import EoforgeError
from services.federation.settings import FederationSettings

if __name__ == "__main__":
    try:
        settings = FederationSettings()
        settings.require_consistent()
        from services.federation.server import run  # seconds of imports, which wrong settings need not wait for

        run(settings)
    except EoforgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
