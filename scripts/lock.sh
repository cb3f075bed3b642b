#!/usr/bin/env bash
# Resolves the requirements*.in files into hash-pinned locks that name no index and hold for every platform from Python 3.11 on.
# LOCK_ARGS="--upgrade" (or "--upgrade-package NAME") moves versions; without it only what the .in files force is changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh demo
uv=$(command -v uv || echo .venv/bin/uv)
# A local folder of wheels would leak its builds' hashes into the locks, which then fail elsewhere.
unset UV_FIND_LINKS PIP_FIND_LINKS

compile() {
    # shellcheck disable=SC2086
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' ${LOCK_ARGS:-} "$@"
}

compile requirements.in --output-file requirements.txt
compile --constraint requirements.txt requirements-engine.in --output-file requirements-engine.txt
compile requirements-dev.in --output-file requirements-dev.txt
compile scripts/uv.in --output-file scripts/uv.txt
