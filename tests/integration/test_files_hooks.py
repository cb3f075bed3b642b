"""Programs around a backup, and groups: the application stands still while it is read, and goes on whatever happens."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mingus_engine.cli.main import main
from mingus_engine.errors import Cancelled, HookFailed, SourceBusy, SourceError
from mingus_engine.jobs import groups
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.context import JobContext, Progress
from mingus_engine.jobs.hooks import pending_mark
from mingus_engine.jobs.postgres.restore import restore
from mingus_engine.settings import GroupSettings, HookSettings, load
from tests.support.file_sets import SOURCE, FileSet
from tests.support.installation import running
from tests.support.postgres import PgCluster
from tests.support.processes import is_running, unprivileged_user, wait_until

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}


class Application:
    """Something that hooks pause and resume, with a diary of what they did."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        root.chmod(0o777)
        self.root, self.diary = root, root / "diary"
        self.diary.touch()
        self.diary.chmod(0o666)

    def script(self, name: str, text: str) -> tuple[str, ...]:
        """A program that runs *text* by a shell; the diary is ``$1``."""
        path = self.root / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path), str(self.diary)

    def hooks(self, **options: object) -> HookSettings:
        """``pause`` before, ``resume`` after."""
        before = self.script("pause", 'echo pause >> "$1"')
        after = self.script("resume", 'echo resume >> "$1"')
        return HookSettings(**{"before": (before,), "after": (after,), **options})  # type: ignore[arg-type]

    @property
    def lines(self) -> list[str]:
        """What was written into the diary."""
        return self.diary.read_text().split()


@pytest.fixture
def application(workspace: Path) -> Application:
    return Application(workspace / "application")


@pytest.fixture
def one(workspace: Path) -> Iterator[FileSet]:
    made = FileSet.make(workspace / "set")
    (made.tree / "file").write_text("content")
    yield made
    made.close()


def with_hooks(one: FileSet, hooks: HookSettings) -> FileSet:
    one.settings = one.settings.with_source(replace(one.settings.source(SOURCE), hooks=hooks))
    return one


def mark(one: FileSet) -> Path:
    return pending_mark(one.settings.state_path, SOURCE)


def test_everything_is_read_between_them_and_the_manifest_says_when(one: FileSet, application: Application) -> None:
    # What is in the file while the application is paused is what comes back.
    before = application.script("pause", f'echo pause >> "$1"; echo still > {one.tree}/file')
    after = application.script("resume", f'echo resume >> "$1"; echo moving > {one.tree}/file')
    report = with_hooks(one, HookSettings(before=(before,), after=(after,))).back_up()
    assert application.lines == ["pause", "resume"]
    assert (one.tree / "file").read_text() == "moving\n"
    directory, _ = one.restore("back")
    assert (directory / "tree" / "file").read_text() == "still\n"
    assert report.hooks is not None
    with one.reader() as reader:
        assert reader.body.facts["hooks"] == report.hooks
    assert report.hooks["quiesced_from"] < report.hooks["quiesced_until"]
    assert not mark(one).exists()


def test_one_that_fails_before_fails_the_backup_and_the_others_after_run(
    one: FileSet, application: Application
) -> None:
    bad = application.script("bad", 'echo bad >> "$1"; echo the shop is busy >&2; exit 3')
    hooks = application.hooks()
    with_hooks(one, replace(hooks, before=(bad, *hooks.before)))
    with pytest.raises(HookFailed, match="bad ended with 3: the shop is busy"):
        one.back_up()
    assert application.lines == ["bad", "resume"]
    with one.repository() as repository:
        assert list(repository.list_snapshots(SOURCE)) == []


def test_after_a_failure_or_a_cancel_the_application_goes_on(one: FileSet, application: Application) -> None:
    with_hooks(one, application.hooks())
    root = one.files.roots
    one.set(roots=(replace(root[0], path=str(one.root / "missing"), label="tree"),))
    with pytest.raises(SourceError, match="missing"):
        one.back_up()
    assert application.lines == ["pause", "resume"]
    one.set(roots=root)
    context = JobContext(log=one.messages.append)
    context.on_progress = lambda _: context.cancel.set()
    with pytest.raises(Cancelled):
        one.back_up(context=context)
    assert application.lines == ["pause", "resume"] * 2
    assert not mark(one).exists()


def test_a_failure_after_it_is_told_and_loses_no_snapshot(one: FileSet, application: Application) -> None:
    hooks = application.hooks()
    bad = application.script("bad", "echo the shop does not answer; exit 1")
    with_hooks(one, replace(hooks, after=(bad, *hooks.after)))
    report = one.back_up()
    assert application.lines == ["pause", "resume"]  # the others run all the same
    assert report.hooks is not None
    assert report.hooks["failed"] == [f"hook after {SOURCE}: {bad[0]} ended with 1: the shop does not answer"]
    one.restore("back")
    assert mark(one).exists()
    # The next run makes it good before anything else, or reads nothing.
    with pytest.raises(HookFailed, match="cannot be made good"):
        one.back_up()
    with_hooks(one, hooks)
    one.back_up()
    assert application.lines == ["pause", "resume", "resume", "resume", "pause", "resume"]
    assert not mark(one).exists()


def test_after_a_kill_the_next_run_lets_the_application_go_on_first(one: FileSet, application: Application) -> None:
    for i in range(20):
        (one.tree / f"{i}").write_bytes(os.urandom(3_000_000))
    hooks = application.hooks()
    slow = application.script("slow", 'echo slow >> "$1"; echo $$ > "$1.pid"; exec sleep 1000')
    document = yaml.safe_load((one.root / "mingus.yaml").read_text())
    document["sources"][0]["hooks"] = {"before": [[*hooks.before[0]], [*slow]], "after": [[*hooks.after[0]]]}
    (one.root / "mingus.yaml").write_text(yaml.safe_dump(document))
    code = (
        "import sys; from tests.support.file_sets import FileSet; from mingus_engine.settings import load\n"
        "from pathlib import Path\n"
        "root = Path(sys.argv[1]); FileSet(root, load(root / 'mingus.yaml'), sys.argv[2]).back_up()\n"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", code, str(one.root), one.variable], env={**os.environ, **ENVIRONMENT}
    )
    pid_file = Path(f"{application.diary}.pid")
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the hook runs")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    wait_until(lambda: not is_running(int(pid_file.read_text())), "the hook of the dead engine ends")
    assert application.lines == ["pause", "slow"]
    assert mark(one).exists()
    with_hooks(one, hooks).back_up()
    assert application.lines == ["pause", "slow", "resume", "pause", "resume"]
    assert any("was killed between its hooks" in message for message in one.messages)


def test_one_that_takes_too_long_is_killed_with_all_that_it_started(one: FileSet, application: Application) -> None:
    endless = application.script("endless", '(setsid sleep 1000 & echo $! > "$1.pid"); yes')
    with_hooks(one, application.hooks(before=(endless,), timeout_s=1))
    with pytest.raises(HookFailed, match="did not end within 1 s"):
        one.back_up()
    left = int(Path(f"{application.diary}.pid").read_text())
    wait_until(lambda: not is_running(left), "what the hook started is gone")
    assert application.lines == ["resume"]


def test_no_secret_reaches_them_unasked_and_none_of_theirs_the_log(
    one: FileSet, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_WORD", "open-sesame")
    tell = application.script("tell", 'env > "$1.env"; echo "say $SHOP_WORD"; echo "password: hunter2"')
    options = {"environment": {"SHOP": "x"}, "pass_environment": ("SHOP_WORD",)}
    with_hooks(one, application.hooks(before=(tell,), **options)).back_up()
    found = dict(line.split("=", 1) for line in Path(f"{application.diary}.env").read_text().splitlines())
    assert set(found) - {"PWD", "_", "SHLVL", "OLDPWD"} == {"PATH", "HOME", "LC_ALL", "TZ", "SHOP", "SHOP_WORD"}
    said = "\n".join(one.messages)
    assert "say ***" in said
    assert "sesame" not in said
    assert "hunter2" not in said


def test_two_backups_are_never_between_the_hooks_at_once(one: FileSet, application: Application) -> None:
    wait = application.script("wait", 'echo pause >> "$1"; while [ ! -e "$1.go" ]; do sleep 0.02; done')
    with_hooks(one, application.hooks(before=(wait,)))
    first = threading.Thread(target=one.back_up)
    first.start()
    wait_until(lambda: application.lines == ["pause"], "the first is between its hooks")
    with pytest.raises(SourceBusy):
        one.back_up()
    Path(f"{application.diary}.go").touch()
    first.join()
    assert application.lines == ["pause", "resume"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
def test_as_root_they_run_as_whom_the_settings_name(one: FileSet, application: Application) -> None:
    user = unprivileged_user()
    assert user is not None
    who = application.script("who", 'id -u >> "$1"; id -G >> "$1"')
    with_hooks(one, application.hooks(before=(who,), run_as=user.name)).back_up()
    assert application.lines == [str(user.uid), str(user.gid), "resume"]
    with_hooks(one, application.hooks(run_as="nobody-of-this-name"))
    with pytest.raises(HookFailed, match="does not exist"):
        one.back_up()


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(one: FileSet, application: Application) -> FileSet:
    """Two file sets, ``documents`` and ``pictures``, and the group ``shop`` of both; ``tree`` is the root of either."""
    document = yaml.safe_load((one.root / "mingus.yaml").read_text())
    (one.root / "pictures").mkdir()
    (one.root / "pictures" / "file").write_text("picture")
    roots = [{"path": str(one.root / "pictures")}]
    document["sources"].append({"id": "pictures", "kind": "files", "files": {"roots": roots}})
    document["groups"] = [{"name": "shop", "members": [SOURCE, "pictures"]}]
    (one.root / "mingus.yaml").write_text(yaml.safe_dump(document))
    one.settings = load(one.root / "mingus.yaml")
    return set_group(one, application.hooks())


def set_group(shop: FileSet, hooks: HookSettings, *more: str) -> FileSet:
    shop.settings = replace(shop.settings, groups=(GroupSettings("shop", (SOURCE, "pictures", *more), hooks),))
    return shop


def test_all_members_are_of_one_moment_and_their_manifests_say_so(
    shop: FileSet, application: Application, capsys: pytest.CaptureFixture[str]
) -> None:
    both = f"{shop.tree}/file {shop.root}/pictures/file"
    before = application.script("pause", f'echo pause >> "$1"; echo 1 | tee {both} >/dev/null')
    after = application.script("resume", f'echo resume >> "$1"; echo 2 | tee {both} >/dev/null')
    set_group(shop, HookSettings(before=(before,), after=(after,)))
    first = groups.back_up_group(shop.settings, "shop", context=shop.context)
    second = groups.back_up_group(shop.settings, "shop", context=shop.context, incremental=True)
    assert application.lines == ["pause", "resume"] * 2
    assert first.group["id"] != second.group["id"]
    back_up(shop.settings, "pictures", context=shop.context)  # on its own: of no group
    runs = groups.group_runs(shop.settings, "shop", context=shop.context)
    assert [run.id for run in runs] == [second.group["id"], first.group["id"]]
    assert all(run.complete for run in runs)
    assert all(run.quiesced_from < run.quiesced_until for run in runs)
    assert runs[0].members == {name: done["snapshot"] for name, done in second.members.items()}
    directory, _ = shop.restore("back", runs[1].members[SOURCE])
    assert (directory / "tree" / "file").read_text() == "1\n"
    assert main(["--config", str(shop.root / "mingus.yaml"), "groups", "shop", "--json"]) == 0
    assert [run["id"] for run in json.loads(capsys.readouterr().out)["runs"]] == [run.id for run in runs]


def test_when_one_member_fails_none_commits_and_the_application_goes_on(
    shop: FileSet, application: Application
) -> None:
    source = shop.settings.source("pictures")
    missing = replace(source.files.roots[0], path=str(shop.root / "nowhere"), label="pictures")
    shop.settings = shop.settings.with_source(replace(source, files=replace(source.files, roots=(missing,))))
    with pytest.raises(groups.GroupFailed, match=r"pictures failed, none committed: root .*nowhere") as failed:
        groups.back_up_group(shop.settings, "shop", context=shop.context)
    assert failed.value.exit_code == SourceError.exit_code
    assert application.lines == ["pause", "resume"]
    assert groups.group_runs(shop.settings, "shop", context=shop.context) == []


def test_a_cancelled_group_commits_nothing_and_the_application_goes_on(shop: FileSet, application: Application) -> None:
    context = JobContext(log=shop.messages.append)

    def stop(_: Progress) -> None:
        context.cancel.set()

    context.on_progress = stop
    with pytest.raises(Cancelled):
        groups.back_up_group(shop.settings, "shop", context=context)
    assert application.lines == ["pause", "resume"]
    assert groups.group_runs(shop.settings, "shop", context=shop.context) == []


def test_a_hook_of_the_group_that_fails_fails_all_before_anything_is_read(
    shop: FileSet, application: Application
) -> None:
    set_group(shop, application.hooks(before=(application.script("bad", "exit 1"),)))
    with pytest.raises(groups.GroupFailed, match="none committed: hook before group shop"):
        groups.back_up_group(shop.settings, "shop", context=shop.context)
    assert application.lines == ["resume"]


def test_databases_and_files_of_a_group_are_of_one_moment(
    shop: FileSet, application: Application, make_cluster: Callable[..., PgCluster], workspace: Path
) -> None:
    """A writer counts in a file and in a table; both are restored with the same number."""
    cluster = make_cluster(15)
    cluster.execute("create table counter (n int)", "insert into counter values (0)")
    user = unprivileged_user()
    document = yaml.safe_load((shop.root / "mingus.yaml").read_text())
    connection = {"host": str(cluster.socket_directory), "port": cluster.port, "user": "postgres", "password_env": ""}
    document["sources"].append({
        "id": "ledger", "connection": {**connection, "dbname": "postgres"},
        "bin_directory": str(cluster.version.bin_directory), "verify": {"run_as": user.name if user else ""},
    })  # fmt: skip
    document["groups"][0]["members"].append("ledger")
    (shop.root / "mingus.yaml").write_text(yaml.safe_dump(document))
    shop.settings = load(shop.root / "mingus.yaml")
    paused, waits, stop = application.root / "paused", application.root / "waits", threading.Event()
    before = application.script("pause", f"touch {paused}; while [ ! -e {waits} ]; do sleep 0.01; done")
    after = application.script("resume", f"rm {paused}")
    set_group(shop, HookSettings(before=(before,), after=(after,), timeout_s=30), "ledger")

    def count() -> None:
        n = 0
        while not stop.is_set():
            if paused.exists():
                waits.touch()
                continue
            waits.unlink(missing_ok=True)
            n += 1
            cluster.execute(f"update counter set n = {n}")
            (shop.tree / "file").write_text(str(n))

    writer = threading.Thread(target=count)
    writer.start()
    try:
        counted = shop.tree / "file"
        wait_until(lambda: len(counted.read_text().removesuffix("content")) >= 2, "the writer is at work")
        groups.back_up_group(shop.settings, "shop", context=shop.context, incremental=True)
    finally:
        stop.set()
        writer.join()
    [run] = groups.group_runs(shop.settings, "shop", context=shop.context)
    assert run.complete
    directory, _ = shop.restore("back", run.members[SOURCE])
    restored = workspace / "ledger"
    restore(shop.settings, "ledger", directory=restored, snapshot=run.members["ledger"], context=shop.context)
    with running(workspace, restored, cluster) as server:
        assert str(server.value("select n from counter")) == (directory / "tree" / "file").read_text()


def test_the_command_line_wants_a_source_or_a_group(shop: FileSet, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(shop.root / "mingus.yaml"), "--quiet"]
    assert main([*config, "backup"]) == 2
    assert main([*config, "backup", SOURCE, "--group", "shop"]) == 2
    assert main([*config, "backup", "--group", "nobody"]) == 2
    assert main([*config, "backup", "--group", "shop"]) == 0
    assert "stood still" in capsys.readouterr().out
