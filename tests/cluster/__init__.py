"""A real control plane in the tests: `make cluster`. Plain `make test` collects nothing here (see conftest.py)."""
