"""Tests of mingus_engine.store."""
