"""``python -m services.retrieval``: serves retrieval with settings from the environment (``EOFORGE_*``)."""

from __future__ import annotations

from services.process import main
from services.retrieval.settings import RetrievalSettings

if __name__ == "__main__":
    main(RetrievalSettings, "services.retrieval.server")
