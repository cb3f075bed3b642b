"""# Backup of every set of application code, shipped and proven

Runs nightly (02:00 unless the settings say otherwise), for each source of kind `files` whose `files.set` is `code`:
**back up → ship → verify**, each on its own. One set's failure does not stop another's. These are the programs as they
ran, which is not always what version control says. A night is good when every `verify` is green.
"""

from __future__ import annotations

from airflow.sdk import DAG

from mingus_airflow.file_sets import back_up_file_sets

dag: DAG = back_up_file_sets("backup_code", __doc__, of="code", prove=True)
