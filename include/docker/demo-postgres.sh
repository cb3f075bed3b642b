#!/bin/sh
# Fills the demo's PostgreSQL once, when its volume is new: the ledger of demo/ledger.sql and the role that backs it up.
# Run by the entry of the image `postgres` as the server's owner, on a server that only listens on a socket.
set -eu

password=$(cat "${MINGUS_DEMO_PASSWORD_FILE:?}")
megabytes=${MINGUS_DEMO_SIZE_MB:-200}
psql=${PSQL:-psql}

# ledger.sql holds places for numbers of rows; these are demo/ledger.py's, by megabyte of database.
users=$((megabytes * 53))
accounts=$((megabytes * 106 / 4 * 4))
entries=$((megabytes * 1575))
documents=$((megabytes * 103 / 10))

"$psql" -v ON_ERROR_STOP=1 --username "${POSTGRES_USER:?}" --dbname postgres -c 'CREATE DATABASE ledger'
sed -e "s/{users}/$users/g" -e "s/{accounts}/$accounts/g" -e "s/{entries}/$entries/g" \
    -e "s/{documents}/$documents/g" "${LEDGER_SQL:-/ledger.sql}" |
    "$psql" -v ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname ledger
# psql quotes the password: it is on no command line.
MINGUS_DEMO_PASSWORD=$password "$psql" -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname ledger <<'SQL'
\getenv password MINGUS_DEMO_PASSWORD
CREATE ROLE mingus_backup LOGIN REPLICATION PASSWORD :'password';
GRANT pg_read_all_data, pg_read_all_settings, pg_monitor TO mingus_backup;
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_switch_wal() TO mingus_backup;
ANALYZE;
SQL
echo 'host replication mingus_backup all scram-sha-256' >>"${PGDATA:?}/pg_hba.conf"
