"""Tests of the web console: pages over real services, security, sign-in, and a real browser."""
