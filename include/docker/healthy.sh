#!/bin/sh
# Whether a component of Airflow (metadatabase, scheduler, dag_processor, triggerer) is healthy, as the API server says.
# It costs a request; `airflow jobs check` costs seconds of a processor, each time.
set -eu

url=${HEALTH_URL:-http://airflow-apiserver:8080}/api/v2/monitor/health
[ "$1" != metadatabase ] || url=${HEALTH_URL:-http://localhost:8080}/api/v2/monitor/health
curl --silent --show-error --fail --noproxy '*' --max-time 10 "$url" | grep -q "\"$1\":{\"status\":\"healthy\""
