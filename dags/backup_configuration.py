"""# Backup of every set of configuration, shipped and proven

Runs nightly (01:30 unless the settings say otherwise), for each source of kind `files` whose `files.set` is
`configuration`: **back up → ship → verify**, each on its own. One set's failure does not stop another's. It is what a
machine needs, besides its programs and data, to be what it was. A night is good when every `verify` is green.
"""

from __future__ import annotations

from airflow.sdk import DAG

from mingus_airflow.file_sets import back_up_file_sets

dag: DAG = back_up_file_sets("backup_configuration", __doc__, of="configuration", prove=True)
