"""Tests of DML-S2R."""
