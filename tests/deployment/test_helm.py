"""The values for Airflow's Helm chart name only keys that the chart documents, and say the same as compose."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.deployment.compose import ROOT, services

VALUES: dict[str, Any] = yaml.safe_load((ROOT / "include" / "helm" / "values.yaml").read_text())
# Keys that are used here, as of chart/values.schema.json and chart/values.yaml of apache/airflow; `None` = whatever is
# below is Kubernetes' or Airflow's own.
_RESOURCES = {"replicas", "resources"}
DOCUMENTED: dict[str, set[str] | None] = {
    "airflowVersion": None,
    "images": {"airflow", "useDefaultImageForMigration"},
    "executor": None,
    "data": {"metadataSecretName", "brokerUrlSecretName"},
    "fernetKeySecretName": None,
    "apiSecretKeySecretName": None,
    "jwtSecretName": None,
    "postgresql": {"enabled"},
    "redis": {"enabled"},
    "env": None,
    "config": None,
    "volumes": None,
    "volumeMounts": None,
    "securityContexts": {"pod"},
    "createUserJob": {"useHelmHooks", "command", "args", "extraVolumes", "extraVolumeMounts"},
    "workers": _RESOURCES
    | {"terminationGracePeriodSeconds", "securityContexts", "env", "extraVolumes", "extraVolumeMounts"}
    | {"volumeClaimTemplates", "persistence"},
    "apiServer": _RESOURCES,
    "scheduler": _RESOURCES,
    "dagProcessor": _RESOURCES,
    "triggerer": _RESOURCES | {"persistence"},
    "statsd": {"enabled"},
}


def test_every_key_is_one_that_the_chart_documents() -> None:
    assert VALUES.keys() == DOCUMENTED.keys()
    for key, known in DOCUMENTED.items():
        assert known is None or VALUES[key].keys() == known, key


def test_the_chart_runs_the_airflow_of_the_lock_with_the_options_of_compose() -> None:
    locked = re.search(r"^apache-airflow==(\S+) ", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert locked
    assert VALUES["airflowVersion"] == locked[1]
    compose = services()["airflow-scheduler"]["environment"]
    own = {"base_url", "worker_concurrency", "statsd_host", "dags_folder", "plugins_folder", "load_examples"}
    for section, options in VALUES["config"].items():
        for option, value in options.items():
            name = f"AIRFLOW__{section.upper()}__{option.upper()}"
            assert option in own or str(compose[name]) == str(value), name
    image = (ROOT / "Dockerfile").read_text()
    assert VALUES["config"]["core"]["dags_folder"] in image
    assert VALUES["config"]["core"]["plugins_folder"] in image


def test_no_secret_is_a_value_and_the_settings_find_what_they_name() -> None:
    settings = (ROOT / "include" / "docker" / "mingus.yaml").read_text()
    given = {entry["name"] for entry in VALUES["env"]}
    assert given <= set(re.findall(r"\$\{(\w+)", settings)) | {"MINGUS_CONFIG"}
    for entry in VALUES["workers"]["env"]:
        assert entry.keys() == {"name", "valueFrom"}
    mounts = {mount["mountPath"] for mount in VALUES["workers"]["extraVolumeMounts"]}
    assert mounts == {"/run/secrets", "/var/lib/mingus"}
