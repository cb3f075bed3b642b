"""MINGUS in Airflow: thin adapters around the engine's jobs.

An operator loads the settings, resolves the source's Airflow connection into plain values, calls ONE job of
``mingus_engine`` and returns its small JSON report. Everything that knows how to back up, ship or verify is in the
engine, which works with Airflow down. docs/AIRFLOW.md says how it is wired.

Not promised: a view across tasks. Operators never read Airflow's metadata database (tasks may not), and nothing but the
report passes through XCom.
"""
