"""The dashboards' one source: ``python -m scripts.dashboards`` writes ``include/monitoring/grafana/dashboards/*.json``.

``boards`` says what is on them, ``panels`` how Grafana wants it written (schema version 39: Grafana 10 and later).
A test writes them again and compares.
"""
