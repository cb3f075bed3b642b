"""What every test shares: the fixtures of tests.support and hypothesis' settings."""

import signal

import hypothesis

from tests.support.fixtures import (
    make_cluster,
    make_redis,
    make_redis_cluster,
    make_sentinel,
    moto_s3,
    moto_s3_server,
    pg,
    pg15,
    pg16,
    pg18,
    pg_version,
    pg_versions,
    rclone_s3,
    rclone_s3_server,
    session_directory,
    workspace,
)

__all__ = [
    "make_cluster",
    "make_redis",
    "make_redis_cluster",
    "make_sentinel",
    "moto_s3",
    "moto_s3_server",
    "pg",
    "pg15",
    "pg16",
    "pg18",
    "pg_version",
    "pg_versions",
    "rclone_s3",
    "rclone_s3_server",
    "session_directory",
    "workspace",
]

# A shell that starts the tests in the background (or nohup) has them ignore these, and so every program they start.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)

# A loaded two-core machine makes any time limit per example a false alarm; pytest-timeout bounds the test.
hypothesis.settings.register_profile("mingus", deadline=None, print_blob=True)
hypothesis.settings.load_profile("mingus")
