"""``python -m services.prediction``: serves predictions with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

from services.prediction.settings import PredictionSettings
from services.process import main

if __name__ == "__main__":
    main(PredictionSettings, "services.prediction.server")
