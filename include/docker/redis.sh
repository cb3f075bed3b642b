#!/bin/sh
# A Redis with a password from a file, its data in REDIS_DIRECTORY; with REDIS_DEMO_SESSIONS, so many keys when it is empty.
set -eu
umask 077

password=$(cat "${REDIS_PASSWORD_FILE:?}")
port=${REDIS_PORT:-6379}
config=${REDIS_CONFIG:-/tmp/redis.conf}

fill() {
    export REDISCLI_AUTH="$password"
    until redis-cli -p "$port" ping 2>/dev/null | grep -q PONG; do sleep 0.2; done
    [ "$(redis-cli -p "$port" dbsize)" -eq 0 ] || return 0
    awk -v sessions="$1" 'BEGIN {
        for (i = 1; i <= sessions; i++) printf "SET session:%d user-%d-%032d EX %d\r\n", i, i, i * 7919, 86400 + i
    }' | redis-cli -p "$port" --pipe >/dev/null
}

[ -z "${REDIS_DEMO_SESSIONS:-}" ] || fill "$REDIS_DEMO_SESSIONS" &
# In a file that only this user can read: a password on a command line is everybody's.
printf 'requirepass %s\nappendonly yes\nport %s\ndir %s\n' "$password" "$port" "${REDIS_DIRECTORY:-/data}" >"$config"
exec redis-server "$config"
