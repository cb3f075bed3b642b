"""``make demo``: a ledger and sessions backed up, shipped, restored and proven by Airflow, on this machine, in minutes.

``python -m demo up | status | down``. Everything is in one directory of its own (``.demo`` or ``MINGUS_DEMO_DIR``) and
on free loopback ports; every process dies with ``up``, also by ``kill -9``. ``supervisor`` runs Airflow for the
end-to-end tests too.
"""
