"""What MINGUS adds to Airflow's UI.

The one file Airflow's plugin loader sees: plugins/.airflowignore hides the packages from it.
"""

from airflow.plugins_manager import AirflowPlugin

from mingus_airflow.links import ReportLink


class MingusPlugin(AirflowPlugin):
    """Registers the operators' extra links."""

    name = "mingus"
    operator_extra_links = [ReportLink()]  # noqa: RUF012 - the shape Airflow's loader expects
