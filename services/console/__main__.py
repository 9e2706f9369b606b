"""``python -m services.console``: serves the web console with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

from services.console.settings import ConsoleSettings
from services.process import main

if __name__ == "__main__":
    main(ConsoleSettings, "services.console.server")
