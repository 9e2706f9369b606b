"""``python -m services.federation``: serves federation with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

from services.federation.settings import FederationSettings
from services.process import main

if __name__ == "__main__":
    main(FederationSettings, "services.federation.server")
