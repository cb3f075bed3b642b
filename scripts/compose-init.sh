#!/usr/bin/env bash
# Makes what docker-compose.yaml needs beside the tree: .env, from .env.example, and the secrets, random ones.
#
#   scripts/compose-init.sh [DIRECTORY]     default: this tree
#
# Run it again whenever you like: what is there stays, also what you wrote into it; only what is missing is made.
# secrets/ can be entered by its owner only. The files in it are readable by all, because compose shows them to containers
# as they are, and the programs there run as users of their own.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${1:-$root}
secrets=$target/secrets

say() { printf 'compose-init: %s\n' "$*"; }

umask 077
mkdir -p "$secrets"
chmod 700 "$secrets"

# Standard input becomes the secret $1, unless there is one. Written beside and renamed: a run that is killed leaves no half one.
keep() {
    local file=$secrets/$1.txt text
    text=$(cat)
    [ ! -e "$file" ] || return 0
    printf '%s' "$text" >"$file.new"
    chmod 444 "$file.new"
    mv "$file.new" "$file"
    say "made secrets/$1.txt"
}

# $1 random bytes as letters and digits that need no quotes anywhere, also not in an address.
random() { head -c "$1" /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
secret() { cat "$secrets/$1.txt"; }

# Fernet: 32 bytes in URL-safe base64, with its padding.
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | keep fernet_key
head -c 32 /dev/urandom | base64 | keep backup_encryption_key
random 48 | keep api_secret_key
random 64 | keep jwt_secret
for name in metadata_password broker_password s3_secret_key source_postgres_password source_redis_password; do
    random 24 | keep "$name"
done
for name in demo_admin_password admin_password grafana_password; do random 18 | keep "$name"; done
printf 'MINGUS%s' "$(head -c 7 /dev/urandom | od -An -tx1 | tr -d ' \n' | tr a-f A-F)" | keep s3_access_key
printf 'postgresql+psycopg2://airflow:%s@metadata:5432/airflow' "$(secret metadata_password)" | keep metadata_url
printf 'db+postgresql://airflow:%s@metadata:5432/airflow' "$(secret metadata_password)" | keep result_url
printf 'redis://:%s@broker:6379/0' "$(secret broker_password)" | keep broker_url
# Nobody's yet: write yours into them.
for name in email_password slack_webhook_url; do keep "$name" </dev/null; done

if [ ! -e "$target/.env" ]; then
    cp "$root/.env.example" "$target/.env"
    say 'made .env'
fi
say "ready: docker compose up --detach; then log in as admin with secrets/admin_password.txt"
say "keep a copy of secrets/backup_encryption_key.txt where this machine is not"
