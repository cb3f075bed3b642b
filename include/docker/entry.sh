#!/bin/sh
# The entry of the image: secrets from files, then the entry of Apache Airflow's own image.
# `mingus …` is the command line of the engine, for `docker compose exec` as well as for `docker compose run`.
set -eu

if [ "$(basename "$0")" = mingus ]; then
    exec /opt/mingus/include/docker/with-secrets.sh python -m mingus_engine "$@"
fi
exec /opt/mingus/include/docker/with-secrets.sh /entrypoint "$@"
