#!/usr/bin/env bash
# Installs Debian packages (the arguments) as root without letting them take the machine over: installing postgresql-15 would
# make and start a cluster on port 5432, redis-server a server on port 6379. MINGUS needs the programs only.
#
# Both means used here undo themselves, also after a kill -9: a policy that speaks only while this process lives, and one
# setting that only the first installation of a PostgreSQL version reads.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.d
no_cluster=$clusters/zz-mingus-setup.conf
made_policy=
made_no_cluster=

clean_up() {
    [ -z "$made_policy" ] || rm -f "$policy"
    [ -z "$made_no_cluster" ] || rm -f "$no_cluster"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

# A policy that is there already belongs to the administrator (containers have one): it stays in charge.
if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\n# Made by the MINGUS set-up, process %s; without effect once that has ended.\nkill -0 %s 2>/dev/null && exit 101\nexit 0\n' $$ $$ >"$policy"
    chmod 755 "$policy"
fi
# createcluster.conf is a configuration file of the package, hence not ours to write; its include directory is free.
if [ ! -e "$no_cluster" ]; then
    mkdir -p "$clusters"
    made_no_cluster=yes
    printf '%s\n' "# Made by the MINGUS set-up for the time of one installation." "create_main_cluster = false" >"$no_cluster"
fi

log=$(mktemp)
quietly() {
    "$@" >"$log" 2>&1 || { tail -n 40 "$log" >&2; rm -f "$log"; exit 1; }
}
lock=(-o DPkg::Lock::Timeout=300)
quietly apt-get "${lock[@]}" -qq update
names=()
for package in "$@"; do
    # Only Debian 12 has postgresql-15; elsewhere the release's own version serves the demo.
    if [ "$package" = postgresql-15 ] && [ -z "$(apt-cache madison postgresql-15)" ]; then
        package=postgresql
    fi
    names+=("$package")
done
quietly apt-get "${lock[@]}" -qq install --yes --no-install-recommends "${names[@]}"
rm -f "$log"

# The service files are enabled by the packages: not at the next boot either, unless it was so before.
if [ -d /run/systemd/system ]; then
    for package in "$@"; do
        case $package in
            redis-server | prometheus | prometheus-*) systemctl disable --now --quiet "$package.service" || true ;;
        esac
    done
fi
