"""FL-RS: nine federated algorithms on satellite archives that do not leave their owners; see README.md."""
