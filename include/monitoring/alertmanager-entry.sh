#!/bin/sh
# Starts Alertmanager with alertmanager.yml, filled from the environment; further arguments are Alertmanager's.
#
#   EMAIL_ALERTS_ENABLED (true|false), EMAIL_SMTP_SERVER (host[:port], 587), EMAIL_TO, EMAIL_FROM, EMAIL_USERNAME,
#   EMAIL_PASSWORD or EMAIL_PASSWORD_FILE, EMAIL_REQUIRE_TLS (true|false), SLACK_WEBHOOK_URL or SLACK_WEBHOOK_URL_FILE,
#   DEADMAN_URL (called every few minutes while all is well).
#
# A wrong setting ends it here, at the start, and is named. Secrets go into files that only this user can read.
set -eu
umask 077

here=$(cd "$(dirname "$0")" && pwd)
program=${ALERTMANAGER_PROGRAM:-/bin/alertmanager}
template=${ALERTMANAGER_TEMPLATE:-$here/alertmanager.yml}
config=${ALERTMANAGER_CONFIG:-/tmp/alertmanager.yml}
leave_out=

die() { echo "alertmanager-entry: $*" >&2; exit 2; }

# The value of a setting as one line of YAML between single quotes, in sed's replacement. $1: the name.
value() {
    eval "text=\${$1:-}"
    case $text in *'
'*) die "$1 has more than one line" ;; esac
    printf '%s' "$text" | sed -e "s/'/''/g" -e 's/[&|\\]/\\&/g'
}

# The secret $1, from the file that $1_FILE names or from the environment, to $config.$1; false when there is none.
secret() {
    eval "file=\${$1_FILE:-} text=\${$1:-}"
    if [ -n "$file" ]; then
        [ -r "$file" ] || die "$1_FILE: $file cannot be read"
        text=$(cat "$file")
    fi
    rm -f "$config.$1"
    [ -n "$text" ] || return 1
    printf '%s' "$text" >"$config.$1"
}

switch() {
    case $2 in true | false) ;; *) die "$1 is '$2': true or false is needed" ;; esac
}

EMAIL_ALERTS_ENABLED=$(printf '%s' "${EMAIL_ALERTS_ENABLED:-false}" | tr '[:upper:]' '[:lower:]')
EMAIL_REQUIRE_TLS=$(printf '%s' "${EMAIL_REQUIRE_TLS:-true}" | tr '[:upper:]' '[:lower:]')
switch EMAIL_ALERTS_ENABLED "$EMAIL_ALERTS_ENABLED"
switch EMAIL_REQUIRE_TLS "$EMAIL_REQUIRE_TLS"
if [ "$EMAIL_ALERTS_ENABLED" = true ]; then
    [ -n "${EMAIL_SMTP_SERVER:-}" ] || die "EMAIL_SMTP_SERVER is not set"
    [ -n "${EMAIL_TO:-}" ] || die "EMAIL_TO is not set"
    EMAIL_FROM=${EMAIL_FROM:-${EMAIL_USERNAME:-}}
    [ -n "$EMAIL_FROM" ] || die "EMAIL_FROM is not set (nor EMAIL_USERNAME)"
    case $EMAIL_SMTP_SERVER in *:*) ;; *) EMAIL_SMTP_SERVER=$EMAIL_SMTP_SERVER:587 ;; esac
    if [ -n "${EMAIL_USERNAME:-}" ] && secret EMAIL_PASSWORD; then
        EMAIL_PASSWORD_FILE=$config.EMAIL_PASSWORD
    else
        leave_out="$leave_out login"
    fi
else
    leave_out="$leave_out email login"
fi
if secret SLACK_WEBHOOK_URL; then
    case $(cat "$config.SLACK_WEBHOOK_URL") in http://* | https://*) ;; *) die "SLACK_WEBHOOK_URL is no URL" ;; esac
    SLACK_WEBHOOK_URL_FILE=$config.SLACK_WEBHOOK_URL
else
    leave_out="$leave_out slack"
fi
[ -n "${DEADMAN_URL:-}" ] || leave_out="$leave_out deadman"
case $leave_out in *email*slack*) echo "alertmanager-entry: neither e-mail nor Slack is set up: alerts are only shown" >&2 ;; esac
TEMPLATES=$(dirname "$template")/templates

set -- "--config.file=$config" "$@"
expressions=
for tag in $leave_out; do expressions="$expressions -e /#.tag:.$tag\$/d"; done
# shellcheck disable=SC2086 # one expression a tag, without blanks
sed $expressions -e "s|@EMAIL_SMTP_SERVER@|$(value EMAIL_SMTP_SERVER)|" -e "s|@EMAIL_FROM@|$(value EMAIL_FROM)|" \
    -e "s|@EMAIL_REQUIRE_TLS@|$EMAIL_REQUIRE_TLS|" -e "s|@EMAIL_USERNAME@|$(value EMAIL_USERNAME)|" \
    -e "s|@EMAIL_PASSWORD_FILE@|$(value EMAIL_PASSWORD_FILE)|" -e "s|@EMAIL_TO@|$(value EMAIL_TO)|" \
    -e "s|@SLACK_WEBHOOK_URL_FILE@|$(value SLACK_WEBHOOK_URL_FILE)|" -e "s|@DEADMAN_URL@|$(value DEADMAN_URL)|" \
    -e "s|@TEMPLATES@|$(value TEMPLATES)|" "$template" >"$config"
unset EMAIL_PASSWORD SLACK_WEBHOOK_URL
exec "$program" "$@"
