"""Tests of the reBEN baselines."""
