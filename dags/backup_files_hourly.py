"""# What changed in every file set, shipped

Runs hourly, a quarter past, for each source of kind `files`, whatever its set: **back up → ship**, each on its own. One
set's failure does not stop another's. Unchanged files are not read, so that an hour costs little; the nightly
`backup_documents`, `backup_configuration` and `backup_code` prove.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mingus_airflow.file_sets import back_up_file_sets

dag: DAG = back_up_file_sets("backup_files_hourly", __doc__, prove=False, most=timedelta(hours=12))
