"""Tests of MINGUS; they mirror plugins/ path by path. Shared helpers are in tests.support."""
