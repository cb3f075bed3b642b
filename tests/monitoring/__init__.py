"""Metrics, rules, alerts and dashboards on the real programs."""
