#!/usr/bin/env bash
# Makes everything MINGUS needs on this machine: the virtual environment .venv and the Debian packages.
#
#   scripts/setup.sh demo    requirements.txt; PostgreSQL and Redis servers
#   scripts/setup.sh dev     the same, and requirements-dev.txt: what `make test` and `make check` use
#   scripts/setup.sh bench   the same, and the programs that `make bench` compares MINGUS with
#
# Idempotent and quiet when nothing is missing: a stamp in .venv holds the digest of the lock files it was made from.
# Several may run at once (they wait for each other). PYTHON=... chooses the interpreter (3.11 or newer).
# Exit codes: 0 ready; 1 something failed; 3 Debian packages are missing and this user may not install them.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
level=${1:-dev}

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

case $level in
    demo) stamp=$venv/.mingus-demo locks=("$root/requirements.txt") ;;
    dev | bench) stamp=$venv/.mingus-dev locks=("$root/requirements.txt" "$root/requirements-dev.txt") ;;
    *) die "unknown level '$level' (demo, dev or bench)" ;;
esac

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python3.13 python3.12; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            # The real file, not a version manager's shim: the environment must outlive a change of the shim's default.
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "Python 3.11 or newer is needed (set PYTHON=/path/to/python3.11)"
}

missing_packages() {
    # Looked for as programs, not as packages: another source of the same program (an image's own build) is as good.
    # The demo runs on any version; the tests name theirs.
    local servers='/usr/lib/postgresql/15/bin/initdb'
    [ "$level" != demo ] || servers='/usr/lib/postgresql/*/bin/initdb'
    compgen -G "$servers" >/dev/null || echo postgresql-15
    command -v redis-server >/dev/null || echo redis-server
    # redis-cli, redis-check-rdb and redis-check-aof; a Sentinel is redis-server itself.
    command -v redis-check-rdb >/dev/null || echo redis-tools
    if [ "$level" != demo ]; then
        # What the tests of monitoring run; the demo starts what it finds.
        command -v promtool >/dev/null || echo prometheus
        command -v amtool >/dev/null || echo prometheus-alertmanager
        command -v prometheus-node-exporter >/dev/null || echo prometheus-node-exporter
        command -v prometheus-postgres-exporter >/dev/null || echo prometheus-postgres-exporter
        command -v prometheus-redis-exporter >/dev/null || echo prometheus-redis-exporter
        # The browser of the tests that look at Airflow's pages.
        [ -x /usr/bin/chromium ] || echo chromium
        find_statsd_exporter || command -v go >/dev/null || echo golang-go
    fi
    if [ "$level" = bench ]; then
        command -v pgbackrest >/dev/null || echo pgbackrest
        command -v restic >/dev/null || echo restic
        command -v borg >/dev/null || echo borgbackup
        command -v zstd >/dev/null || echo zstd
        command -v openssl >/dev/null || echo openssl
    fi
    # Debian splits `venv` from Python; only needed when there is no uv to make the environment.
    command -v uv >/dev/null || [ -x "$venv/bin/uv" ] || "$python" -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

install_packages() {
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            sudo=(sudo -n)
        else
            say "error: Debian packages are missing and neither root nor password-less sudo is at hand. Install them with:" >&2
            printf '\n    sudo apt-get update && sudo apt-get install --no-install-recommends %s\n\nand run this again.\n' "$*" >&2
            exit 3
        fi
    fi
    command -v apt-get >/dev/null || die "this machine has no apt-get; install by hand: $*"
    say "installing Debian packages: $*"
    "${sudo[@]}" bash "$root/scripts/apt-install.sh" "$@"
}

find_statsd_exporter() { [ -x "$venv/bin/statsd_exporter" ] || command -v statsd_exporter >/dev/null; }

# Debian has no statsd_exporter; Go builds it from its own, checksummed modules. 0.25 is the newest that Debian 12's Go 1.19 can build.
build_statsd_exporter() {
    local version=v0.25.0 minor
    minor=$(go env GOVERSION | sed -E 's/^go1\.([0-9]+).*/\1/')
    [ "$minor" -lt 25 ] || version=v0.31.0
    say "building statsd_exporter $version"
    # No toolchain is fetched, and no C compiler needed.
    GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-mod=mod GOBIN=$venv/bin \
        go install "github.com/prometheus/statsd_exporter@$version" >"$venv/statsd_exporter.log" 2>&1 ||
        say "statsd_exporter could not be built (see .venv/statsd_exporter.log): the tests of monitoring are left out"
}

digest() { cat "${locks[@]}" | sha256sum | cut -d' ' -f1; }

up_to_date() { [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(digest)" ]; }

make_environment() {
    # uv never fetches an interpreter of its own here, and reads pip's choice of package index, which it would not by itself.
    # Authorities are the system's, as pip's and git's are: many networks have one of their own.
    [ ! -r /etc/ssl/certs/ca-certificates.crt ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
    export UV_PYTHON_DOWNLOADS=never UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
    if [ -z "${UV_DEFAULT_INDEX:-}" ]; then
        local index
        index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
        [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    fi

    local uv
    if uv=$(command -v uv); then
        [ -x "$venv/bin/python" ] || "$uv" venv --quiet --clear --python "$python" "$venv"
    else
        [ -x "$venv/bin/python" ] || "$python" -m venv --clear "$venv"
        [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install --quiet --require-hashes -r "$root/scripts/uv.txt"
        uv=$venv/bin/uv
    fi
    local arguments=() lock
    for lock in "${locks[@]}"; do arguments+=(-r "$lock"); done
    say "installing the locked Python packages into .venv"
    # Compiling 10,000 modules now, on all cores, takes 7 s; Airflow's processes doing it at their start take longer, each.
    "$uv" pip install --quiet --python "$venv/bin/python" --require-hashes --compile-bytecode "${arguments[@]}"
    # Both levels read their own stamp; the larger one contains the smaller.
    sha256sum <"$root/requirements.txt" | cut -d' ' -f1 >"$venv/.mingus-demo"
    [ "$level" = demo ] || digest >"$stamp"
}

python=$(find_python)
# One at a time: two set-ups in one tree would install into each other's half-made environment.
exec 9>"$root/.setup.lock"
flock 9

mapfile -t packages < <(missing_packages)
if [ ${#packages[@]} -eq 0 ] && up_to_date && { [ "$level" = demo ] || find_statsd_exporter; }; then
    exit 0
fi

# apt-get and uv wait for different things; together they take as long as the slower one.
# python3-venv is the exception: the environment cannot be made without it.
apt=
if [ ${#packages[@]} -gt 0 ]; then
    if [[ " ${packages[*]} " == *" python3-venv "* ]]; then
        install_packages "${packages[@]}"
    else
        install_packages "${packages[@]}" 9>&- &
        apt=$!
    fi
fi
status=0
# A job of its own: in an `||` list bash would ignore `set -e` in the whole function, and call a failed install ready.
if ! up_to_date; then
    make_environment &
    wait $! || status=$?
fi
if [ -n "$apt" ]; then
    wait "$apt" || status=$?
fi
[ "$status" -eq 0 ] || exit "$status"
[ "$level" = demo ] || find_statsd_exporter || build_statsd_exporter
say "ready ($level, $("$venv/bin/python" --version))"
