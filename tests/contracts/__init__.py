"""Suites that hold every implementation of an interface to its contract."""
