"""``python -m services.federation``: serves federation with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

from services._runtime.process import main
from services.federation.settings import FederationSettings

if __name__ == "__main__":
    main(FederationSettings, "services.federation.server")
