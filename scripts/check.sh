#!/usr/bin/env bash
# All checks, each run even when an earlier one failed: one run tells everything. Exits with 1 if any failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export PYTHONPATH=plugins:.

failed=()
check() {
    local name=$1
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

check 'ruff check' .venv/bin/ruff check .
check 'ruff format' .venv/bin/ruff format --check .
check 'mypy' .venv/bin/mypy
check 'layers' .venv/bin/lint-imports
check 'tree' .venv/bin/python scripts/check_tree.py

if [ ${#failed[@]} -gt 0 ]; then
    echo "check: failed: $(printf '%s, ' "${failed[@]}" | sed 's/, $//')" >&2
    exit 1
fi
echo 'check: all passed'
