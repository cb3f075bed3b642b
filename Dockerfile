# syntax=docker/dockerfile:1
# Everything of MINGUS: Airflow with its providers, the engine, and what a restore test starts: PostgreSQL 15 to 18, Redis.
#
#   docker compose build                      (docs/DEPLOYMENT.md)
#
# Tags are pinned; to pin bytes, add the digest that `docker buildx imagetools inspect IMAGE` shows: IMAGE@sha256:….
ARG AIRFLOW_IMAGE=apache/airflow:3.3.2-python3.11
# Of the newest major version that is backed up: a server refuses a newer one's RDB.
ARG REDIS_IMAGE=redis:7.2.14-bookworm

FROM ${REDIS_IMAGE} AS redis

FROM ${AIRFLOW_IMAGE}
SHELL ["/bin/bash", "-o", "errexit", "-o", "nounset", "-o", "pipefail", "-c"]

USER root
# PostgreSQL's own packages: Debian has one major version only. The key they are signed with is in Debian's package, so it
# came over Debian's signature; its fingerprint is compared all the same. No cluster is made, no service started.
RUN <<'INSTALL'
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends ca-certificates git gnupg postgresql-common
key=/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc
gpg --show-keys --with-colons "$key" | grep --quiet '^fpr:*B97B0AFCAA1A47F044F244A07FCC7D46ACCC4CF8:$'
/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y
printf 'create_main_cluster = false\nstart_conf = disabled\n' >/etc/postgresql-common/createcluster.conf
for major in 15 16 17 18; do
    apt-get install --yes --no-install-recommends "postgresql-$major" "postgresql-client-$major"
    "/usr/lib/postgresql/$major/bin/postgres" --version
    "/usr/lib/postgresql/$major/bin/pg_amcheck" --version
done
apt-get purge --yes --auto-remove gnupg
rm -rf /var/lib/apt/lists/*
# Writable by the one user that Airflow runs as, whatever its number: the group is root's, as in Airflow's own image.
install -d -o airflow -g 0 -m 0775 /var/lib/mingus /var/lib/mingus/repositories /opt/airflow/logs
INSTALL
# Servers and tools of one version; the checkers are the server under another name.
COPY --from=redis /usr/local/bin/redis-server /usr/local/bin/redis-cli /usr/local/bin/
RUN ln -s redis-server /usr/local/bin/redis-check-rdb && ln -s redis-server /usr/local/bin/redis-check-aof && \
    redis-server --version

USER airflow
COPY --chown=airflow:0 requirements.txt /opt/mingus/requirements.txt
RUN pip install --no-cache-dir --require-hashes -r /opt/mingus/requirements.txt

COPY --chown=airflow:0 dags /opt/mingus/dags
COPY --chown=airflow:0 plugins /opt/mingus/plugins
COPY --chown=airflow:0 include /opt/mingus/include
USER root
# The root file system is read-only when it runs: bytecode is made now.
RUN python -m compileall -q /opt/mingus/dags /opt/mingus/plugins && \
    ln -s /opt/mingus/include/docker/entry.sh /usr/local/bin/mingus
USER airflow

ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/mingus/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/mingus/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PYTHONPATH=/opt/mingus/plugins \
    PYTHONDONTWRITEBYTECODE=1 \
    MINGUS_CONFIG=/etc/mingus/mingus.yaml
RUN mingus --help >/dev/null
WORKDIR /opt/airflow
ENTRYPOINT ["/usr/bin/dumb-init", "--", "/opt/mingus/include/docker/entry.sh"]
