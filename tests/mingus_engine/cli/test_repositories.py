"""init, list, show, ls, cat, runs, check on small repositories."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from mingus_engine.errors import Damaged
from mingus_engine.repository import records
from tests.mingus_engine.cli.support import Cli, Made, make
from tests.support import repositories
from tests.support.repositories import OTHER_KEY, MadeSource, noise

ESCROW = re.compile(r"MINGUS-ESCROW-1(?:-[A-Z2-7]{2,4}){15}")


def test_init_shows_the_escrow_key_once_and_it_opens_the_repository(cli: Cli) -> None:
    result = cli("init", "primary")
    assert (result.code, result.err) == (0, "")
    (escrow,) = ESCROW.findall(result.text)
    assert "installation_fingerprint: " in result.text
    for path in cli.directory.rglob("*"):
        assert not path.is_file() or escrow.encode() not in path.read_bytes()
    assert cli("keys", "check", BACKUP_ENCRYPTION_KEY="", MINGUS_ESCROW_KEY=escrow, timeout_s=60).code != 0  # offsite
    opened = cli("keys", "check", "primary", "--json", BACKUP_ENCRYPTION_KEY="", MINGUS_ESCROW_KEY=escrow)
    slots = {s["name"]: s["opens"] for s in opened.document["repositories"][0]["slots"]}
    assert slots == {"environment": None, "escrow": True}


def test_init_tells_a_program_everything_in_one_document(cli: Cli) -> None:
    document = cli("init", "primary", "--json").document
    assert ESCROW.fullmatch(document["escrow_key"])
    assert re.fullmatch("[0-9a-f]{64}", document["fingerprint"])
    assert document["repository"] == "primary"
    assert cli("init", "offsite", "--json").document["fingerprint"] == document["fingerprint"]


def test_init_never_overwrites(cli: Cli) -> None:
    assert cli("init", "primary").code == cli("init", "offsite").code == 0
    result = cli("init", "primary")
    assert result.code == 2
    assert "holds a repository already" in result.err
    assert result.out == b""


def test_init_without_a_key_says_how_to_make_one_and_makes_nothing(cli: Cli) -> None:
    result = cli("init", "primary", BACKUP_ENCRYPTION_KEY="")
    assert result.code == 3
    assert "openssl rand" in result.err
    assert not (cli.directory / "one" / "config").exists()


def test_init_whose_escrow_key_nobody_could_read_fails_and_says_so(cli: Cli) -> None:
    with Path("/dev/full").open("wb") as full, cli.start("init", "primary", stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"its escrow key could not be shown" in err
    assert b"init` again" in err


def test_a_place_without_a_repository_is_told_from_a_broken_one(cli: Cli) -> None:
    (cli.directory / "one").mkdir()
    result = cli("show", "latest", "--repository", "primary")
    assert result.code == 2
    assert "holds no repository" in result.err
    assert "mingus init" in result.err


def test_list_tells_where_a_snapshot_is_and_warns_of_what_it_could_not_read(made: Made) -> None:
    result = made.cli("list")
    assert result.code == 0
    headers, row = result.text.splitlines()
    assert headers.split()[:2] == ["SOURCE", "SNAPSHOT"]
    assert row.split()[:2] == ["ledger", made.ulid]
    assert row.split()[-2:] == ["primary", "-"]
    assert "mingus: warning: repository offsite was not read" in result.err


def test_list_needs_no_key(made: Made) -> None:
    assert made.ulid in made.cli("list", BACKUP_ENCRYPTION_KEY="").text


def test_list_as_json_holds_every_field(made: Made) -> None:
    result = made.cli("list", "ledger", "--json")
    (snapshot,) = result.document["snapshots"]
    assert list(result.document["unreachable"]) == ["offsite"]
    assert snapshot["snapshot"] == made.ulid
    assert snapshot["copies"] == [{"repository": "primary", "settled": True, "proof": None}]
    assert snapshot["stored_bytes"] == sum(size for _, size in made.manifest.stored_names())


def test_list_shows_the_newest_proof_of_a_snapshot(made: Made) -> None:
    for level, ok in (("L1", True), ("L4", False)):
        made.repository.repository.put_record(
            records.PROOF, "ledger",
            {"snapshot": made.ulid, "digest_of": made.manifest.digest, "level": level, "ok": ok, "at": ""}, {},
        )  # fmt: skip
    assert "L4 FAILED in primary" in made.cli("list").text
    (snapshot,) = made.cli("list", "--json").document["snapshots"]
    assert snapshot["copies"][0]["proof"]["ok"] is False


def test_list_of_a_source_without_snapshots_is_no_error(made: Made) -> None:
    made.cli.write_settings(
        f"state_directory: state\nrepositories:\n- {{name: primary, path: {made.repository.root}}}\n"
        "sources:\n- {id: other}\n"
    )
    result = made.cli("list", "other")
    assert (result.code, result.text) == (0, "No snapshot of other.\n")


def test_list_fails_when_no_repository_can_be_read(made: Made) -> None:
    result = made.cli("list", "--repository", "offsite")
    assert result.code in {2, 4}
    assert result.out == b""


def test_show_tells_facts_but_no_key(made: Made) -> None:
    result = made.cli("show", made.ulid[:12].lower())
    assert result.code == 0
    assert made.manifest.digest in result.text
    body = made.repository.repository.manifest_body(made.manifest)
    document = made.cli("show", "latest", "--json")
    assert document.document["facts"] == body.facts
    assert document.document["packs"] == len(made.manifest.packs)
    for key in [*body.run_keys.values(), body.hash_key]:
        assert key.hex() not in result.text + document.text


@pytest.mark.parametrize(("key", "says"), [("", "no key for"), (OTHER_KEY, "wrong key or passphrase")])
def test_what_is_inside_a_snapshot_needs_the_right_key(key: str, says: str, made: Made) -> None:
    for command in (["show", "latest"], ["ls", "latest"], ["cat", "latest", "base/1/small"]):
        result = made.cli(*command, BACKUP_ENCRYPTION_KEY=key)
        assert (result.code, result.out) == (3, b"")
        assert says in result.err
        assert "hint: check BACKUP_ENCRYPTION_KEY" in result.err
        assert OTHER_KEY not in result.err


def test_a_repository_of_another_installation_is_refused(made: Made) -> None:
    made.cli("ls", "latest")  # pins it
    other = repositories.make_repository(made.cli.directory / "other")
    made.repository.root.rename(made.cli.directory / "away")
    other.root.rename(made.repository.root)
    result = made.cli("list", "--repository", "primary")
    assert result.code == 3
    assert "is signed by installation" in result.err


def test_a_snapshot_that_is_not_there_and_one_of_several_are_told_apart(made: Made) -> None:
    missing = made.cli("show", "7ZZZZZZZ")
    assert missing.code == 8
    assert "no snapshot named 7ZZZZZZZ in primary (not read: offsite)" in missing.err
    repositories.backed_up(made.repository, repositories.small_source(1))
    several = made.cli("show", made.ulid[:3])
    assert several.code == 8
    assert "2 snapshots named" in several.err


def test_ls_shows_a_directory_and_a_file_and_the_whole_tree(made: Made) -> None:
    root = made.cli("ls", "latest").text.splitlines()
    assert [line.split(maxsplit=5)[-1] for line in root[1:]] == ["base", "odd", "pg_tblspc"]
    inside = made.cli("ls", "latest", "base/1/").text.splitlines()
    assert [line.split()[-1].removeprefix("base/1/") for line in inside[1:]] == ["blocks", "empty", "pages", "small"]
    (line,) = made.cli("ls", "latest", "base/1/blocks").text.splitlines()[1:]
    assert line.split()[:4] == ["-rw-r-----", "26", "27", f"{150 * 1024 + 17:,}"]
    everything = made.cli("ls", "latest", "-R", "--json").document["files"]
    assert len(everything) == len(made.tree.files) + len(made.tree.directories) + len(made.tree.links)
    (link,) = [f for f in everything if f["kind"] == "symlink"]
    assert (link["path"], link["target"]) == ("pg_tblspc/1", "/somewhere/else")


def test_ls_lets_no_name_write_to_the_terminal(made: Made) -> None:
    text = made.cli("ls", "latest", "odd").text
    assert "odd/\\xff\\xfe name\\n" in text


def test_ls_of_an_empty_directory_is_empty_and_of_nothing_an_error(tmp_path: Path) -> None:
    made = make(tmp_path, tree=MadeSource(files={b"a": b"1"}, directories=[b"empty"]))
    empty, missing = made.cli("ls", "latest", "empty"), made.cli("ls", "latest", "emptyish")
    assert (empty.code, empty.out, empty.err) == (0, b"", "")
    assert missing.code == 8
    assert "no file emptyish in snapshot" in missing.err


def test_cat_gives_the_bytes_and_nothing_else(made: Made) -> None:
    for path in made.tree.paths():
        result = made.cli("cat", "latest", path.decode("utf-8", "surrogateescape"))
        assert (result.code, result.out, result.err) == (0, made.tree.files[path], "")


def test_cat_of_a_directory_or_of_nothing_is_an_error(made: Made) -> None:
    for path, says in (("base/1", "base/1 is a directory"), ("base/2", "no file base/2")):
        result = made.cli("cat", "latest", path)
        assert (result.code, result.out) == (8, b"")
        assert says in result.err


def test_cat_of_a_damaged_file_fails_and_names_the_object(made: Made) -> None:
    name = max(made.repository.names("packs/"), key=lambda n: made.repository.path(n).stat().st_size)
    raw = bytearray(made.repository.path(name).read_bytes())
    for at in range(200, 100_000, 50):
        raw[at] ^= 1
    made.repository.path(name).write_bytes(raw)
    result = made.cli("cat", "latest", "base/1/blocks")
    assert result.code == Damaged.exit_code
    assert name in result.err
    assert "do not delete anything" in result.err


def test_cat_into_a_closed_pipe_ends_without_a_word(tmp_path: Path) -> None:
    made = make(tmp_path, tree=MadeSource(files={b"big": noise(4 << 20, "big")}))
    with made.cli.start("cat", "latest", "big") as process:
        assert process.stdout.read(10) == made.tree.files[b"big"][:10]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


def test_a_full_disk_under_stdout_is_an_error(made: Made) -> None:
    with Path("/dev/full").open("wb") as full, made.cli.start("list", stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"cannot write the result to stdout: No space left on device" in err
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err


def test_runs_tells_who_did_what(made: Made) -> None:
    made.cli("cat", "latest", "base/1/small")
    text = made.cli("runs", "ledger", BACKUP_ENCRYPTION_KEY="").text
    assert re.search(rf" read .* cat on .* read {made.ulid}", text)
    assert re.search(rf" write .* committed {made.ulid}", text)
    repositories.begin(made.repository).close()
    newest, *_ = made.cli("runs", "ledger", "--json").document["runs"]
    assert (newest["kind"], newest["ended_at"]) == ("write", None)
    assert len(made.cli("runs", "ledger", "--newest", "1").text.splitlines()) == 2


def test_check_goes_through_every_repository_and_exits_with_the_first_failure(made: Made) -> None:
    result = made.cli("check", "--json")
    by_scope = {(c["scope"], c["name"]): c["ok"] for c in result.document["checks"]}
    assert by_scope["repository primary", "store"] is True
    assert by_scope["repository primary", "keys"] is True
    assert by_scope["repository offsite", "usable"] is False
    assert result.code == result.document["exit_code"] == result.document["error"]["exit_code"] != 0
    human = made.cli("check")
    assert human.code == result.code
    assert "FAILED" in human.text


def test_check_finds_a_wrong_key(made: Made) -> None:
    result = made.cli("check", BACKUP_ENCRYPTION_KEY=OTHER_KEY)
    assert result.code == 3
    assert re.search(r"repository primary +usable +FAILED +wrong key or passphrase", result.text)


def test_no_secret_is_in_any_process_of_a_command(tmp_path: Path) -> None:
    made = make(tmp_path, tree=MadeSource(files={b"big": noise(1 << 20, "big")}), bandwidth=300_000)
    with made.cli.start("verify", "ledger", "--level", "L1", "--repository", "primary", "--quiet") as process:
        seen = 0
        while process.poll() is None:
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = entry.read_bytes()
                except OSError:
                    continue
                seen += b"mingus_engine" in line
                assert not any(secret.encode() in line for secret in made.cli.secrets)
            time.sleep(0.02)
        assert seen
        assert process.returncode == 0


def test_a_command_works_without_airflow(made: Made) -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['airflow', 'mingus_airflow', 'boto3'], None))\n"
        "from mingus_engine.cli.main import main\n"
        "sys.exit(main(['cat', 'latest', 'base/1/small']))\n"
    )
    command = [made.cli.command()[0], "-c", code]
    done = subprocess.run(command, env=made.cli.env({}), cwd=made.cli.directory, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, made.tree.files[b"base/1/small"])
