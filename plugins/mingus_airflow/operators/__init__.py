"""Operators: each runs one job of the engine for one source and returns its report."""

from mingus_airflow.approval import RecoveryApprovalOperator
from mingus_airflow.operators.encrypt_and_ship import EncryptAndShipOperator
from mingus_airflow.operators.file_backup import FileBackupOperator
from mingus_airflow.operators.files_recovery_plan import FilesRecoveryPlanOperator
from mingus_airflow.operators.files_restore import FilesRestoreOperator
from mingus_airflow.operators.group_backup import GroupBackupOperator
from mingus_airflow.operators.health_check import HealthCheckOperator, ProbeOperator
from mingus_airflow.operators.pg_base_backup import PgBaseBackupOperator
from mingus_airflow.operators.pg_extract import PgExtractOperator
from mingus_airflow.operators.pg_recovery_plan import PgRecoveryPlanOperator
from mingus_airflow.operators.pg_restore import PgRestoreOperator
from mingus_airflow.operators.pg_restored_check import PgRestoredCheckOperator
from mingus_airflow.operators.pg_wal_archive import PgWalArchiveOperator
from mingus_airflow.operators.recovery_report import RecoveryReportOperator
from mingus_airflow.operators.recovery_test import RecoveryTestOperator, RecoveryTestReportOperator
from mingus_airflow.operators.redis_aof import RedisAofOperator
from mingus_airflow.operators.redis_recovery_plan import RedisRecoveryPlanOperator
from mingus_airflow.operators.redis_restore import RedisRestoreOperator
from mingus_airflow.operators.redis_snapshot import RedisSnapshotOperator
from mingus_airflow.operators.restore_verify import RestoreVerifyOperator

__all__ = [
    "EncryptAndShipOperator",
    "FileBackupOperator",
    "FilesRecoveryPlanOperator",
    "FilesRestoreOperator",
    "GroupBackupOperator",
    "HealthCheckOperator",
    "PgBaseBackupOperator",
    "PgExtractOperator",
    "PgRecoveryPlanOperator",
    "PgRestoreOperator",
    "PgRestoredCheckOperator",
    "PgWalArchiveOperator",
    "ProbeOperator",
    "RecoveryApprovalOperator",
    "RecoveryReportOperator",
    "RecoveryTestOperator",
    "RecoveryTestReportOperator",
    "RedisAofOperator",
    "RedisRecoveryPlanOperator",
    "RedisRestoreOperator",
    "RedisSnapshotOperator",
    "RestoreVerifyOperator",
]
