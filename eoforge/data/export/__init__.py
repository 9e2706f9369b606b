"""Exports of a patches table to formats of other tools."""
