#!/bin/sh
# Runs a command with secrets from files: for every variable NAME_FILE that is listed in SECRETS_FROM_FILES, NAME is the
# content of that file, without its last newline. An empty file sets nothing: an optional secret that nobody gave.
#
# So `docker inspect`, and the environment of everything that is started beside, show the names of files and no secret.
set -eu

for name in ${SECRETS_FROM_FILES:-}; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || { echo "with-secrets: ${name}_FILE is not set" >&2; exit 2; }
    [ -r "$file" ] || { echo "with-secrets: ${name}_FILE: $file cannot be read" >&2; exit 2; }
    text=$(cat "$file")
    [ -n "$text" ] || continue
    export "$name=$text"
done
exec "$@"
