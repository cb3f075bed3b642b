"""# Backup of every set of documents, shipped and proven

Runs nightly (01:00 unless the settings say otherwise), for each source of kind `files` whose `files.set` is
`documents`: **back up → ship → verify**, each on its own. One set's failure does not stop another's. What people put
there no database backup brings back. A night is good when every `verify` is green.
"""

from __future__ import annotations

from airflow.sdk import DAG

from mingus_airflow.file_sets import back_up_file_sets

dag: DAG = back_up_file_sets("backup_documents", __doc__, of="documents", prove=True)
