"""Main program of an owner's retrieval service over the tests' archive, to be killed; see ``test_across.py``."""

from __future__ import annotations

from eoforge.methods import METHODS, MethodEntry, Task
from services.process import main
from services.retrieval.settings import RetrievalSettings
from tests.services.retrieval.fixtures import METHOD

if __name__ == "__main__":
    METHODS[METHOD] = MethodEntry((Task.ENCODE,), "tests.services.retrieval.fixtures:PROJECTION")
    main(RetrievalSettings, "services.retrieval.server")
