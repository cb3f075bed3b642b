#!/bin/sh
# What must be there before any component of Airflow starts: its database's tables, roles, accounts, connection, pools.
# The service airflow-init runs it at every `docker compose up`; every step of it can be repeated.
set -eu

airflow db migrate
python -m mingus_airflow.initialise --account "${MINGUS_ADMIN:-admin}:Admin:${MINGUS_ADMIN_PASSWORD_FILE:?}"
