"""Help, usage errors, settings errors, and how quickly they come."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mingus_engine import __version__
from mingus_engine.cli.main import main, parser
from tests.mingus_engine.cli.support import PLUGINS, Cli, Result

COMMANDS = ("init", "check", "backup", "list", "show", "ls", "cat", "ship", "verify", "restore", "runs", "keys")
LAUNCHER = PLUGINS.parent / "mingus"


@pytest.fixture
def here(cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process: an interpreter per wrong argument would cost a minute."""
    for name, value in cli.env({}).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        try:
            code = main(arguments)
        except SystemExit as exit_:  # only --help and --version
            code = int(exit_.code or 0)
        seen = capfd.readouterr()
        return Result(code, seen.out.encode(), seen.err)

    return run


def test_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    result = cli("--help")
    assert result.code == 0
    for name in COMMANDS:
        assert f"\n    {name} " in result.text
    assert "130 interrupted" in result.text
    assert result.err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name: str, here: Callable[..., Result]) -> None:
    result = here(name, "--help")
    assert result.code == 0
    assert result.text.startswith(f"usage: mingus {name}")


def test_the_version_is_the_packages(cli: Cli) -> None:
    assert cli("--version").text == f"mingus {__version__}\n"


def test_help_needs_neither_airflow_nor_anything_heavy() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['airflow', 'mingus_airflow', 'boto3', 'psycopg', 'numpy'], None))\n"
        "from mingus_engine.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'yaml', 'cryptography', 'zstandard', 'blake3'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(PLUGINS)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_launcher_works_from_another_directory_and_through_a_link(cli: Cli, tmp_path: Path) -> None:
    link = tmp_path / "m"
    link.symlink_to(LAUNCHER)
    done = subprocess.run([link, "--version"], cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout == f"mingus {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bakcup", "ledger"], "no command 'bakcup'; did you mean 'backup'?"),
        (["verify", "ledger", "--level", "L9"], "no --level 'L9'; did you mean 'L4'?"),
        ([], "the following arguments are required: COMMAND"),
        (["backup"], "name a SOURCE or a --group"),
        (["list", "--lastest"], "unrecognized arguments: --lastest"),
        (["show", "no-ulid"], "'no-ulid' is not the ULID of a snapshot or its beginning"),
        (["restore", "ledger", "x", "--tablespace", "16400"], "16400 is not of the form OID=DIR"),
        (["restore", "ledger", "x", "--tablespace", "16400=rel"], "is not an absolute path"),
        (["runs", "--newest", "0"], "'0' is not a number above zero"),
        (["backup", "ledgre"], "no source named 'ledgre' in the settings; did you mean 'ledger'?"),
        (["restore", "ledgre", "x"], "no source named 'ledgre' in the settings; did you mean 'ledger'?"),
        (["verify", "ledger", "--repository", "offsit"], "no repository named 'offsit' in the settings; did you mean"),
        (["ship", "ledger", "--to", "primary"], "cannot ship from primary to itself"),
        (["init", "primray"], "no repository named 'primray' in the settings; did you mean 'primary'?"),
        (["cat", "latest", "x", "--json"], "it has no JSON form"),
    ],
)
def test_a_wrong_argument_is_one_line_and_a_hint(arguments: list[str], says: str, here: Callable[..., Result]) -> None:
    result = here(*arguments)
    assert result.code == 2
    error, *hint = result.err.splitlines()
    assert error.startswith("mingus: error: ")
    assert says in error
    assert [line[:6] for line in hint] == ["hint: "]
    if "--json" not in arguments:
        assert result.out == b""


def test_options_may_stand_on_either_side_of_the_command() -> None:
    before = parser().parse_args(["--json", "--config", "x", "list", "ledger"])
    after = parser().parse_args(["list", "ledger", "--json", "--config", "x"])
    assert (before.json, before.config, before.quiet) == (after.json, after.config, after.quiet) == (True, "x", False)


def test_options_are_not_abbreviated(cli: Cli) -> None:
    assert cli("list", "--repo", "primary").code == 2


def test_with_json_an_error_is_a_document_too(cli: Cli) -> None:
    for arguments in (["backup", "ledgre", "--json"], ["bakcup", "--json"]):
        result = cli(*arguments)
        error = result.document["error"]
        assert error["exit_code"] == result.code == 2
        assert f"mingus: error: {error['message']}\nhint: {error['hint']}\n" == result.err


def test_an_unknown_key_of_the_settings_is_named_with_the_nearest(cli: Cli) -> None:
    cli.write_settings("state_directory: state\nrepositories:\n- {name: primary, pth: one}\n")
    result = cli("list")
    assert result.code == 2
    assert "unknown key 'pth'; did you mean 'path'?" in result.err


def test_settings_that_are_not_there_are_named(cli: Cli) -> None:
    result = cli("list", "--config", "nowhere.yaml")
    assert result.code == 2
    assert "cannot read settings nowhere.yaml" in result.err
    assert "--config or MINGUS_CONFIG" in result.err


def test_two_repositories_in_one_place_are_refused(cli: Cli) -> None:
    cli.write_settings("repositories:\n- {name: a, path: one}\n- {name: b, path: ./one}\n")
    result = cli("list")
    assert result.code == 2
    assert "repositories 'a' and 'b' have the same place" in result.err


def test_a_defect_is_told_from_a_failure_and_its_trace_is_kept_for_verbose(cli: Cli) -> None:
    code = (
        "import sys\n"
        "from mingus_engine.cli import runs_command\n"
        "from mingus_engine.jobs import inspect\n"
        "def broken(*a, **k): raise KeyError('what')\n"
        "inspect.list_runs = broken\n"
        "from mingus_engine.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], env=cli.env({}), capture_output=True, text=True, check=False
        )

    brief, verbose = run("runs"), run("runs", "--verbose")
    assert brief.returncode == verbose.returncode == 1
    assert brief.stderr.startswith("mingus: error: unexpected KeyError: 'what'\nhint: this is a defect")
    assert "Traceback" not in brief.stderr
    assert "Traceback" in verbose.stderr
    assert "def broken" not in brief.stdout
