"""keys list, check, add-passphrase, rotate; wrong and missing secrets."""

import pytest

from tests.mingus_engine.cli.support import Made
from tests.support import repositories
from tests.support.repositories import OTHER_KEY, TEST_KEY

PASSPHRASE = "correct horse battery"


def test_list_shows_slots_and_epochs_without_a_key(made: Made) -> None:
    result = made.cli("keys", "list", "primary", "--json", BACKUP_ENCRYPTION_KEY="")
    (info,) = result.document["repositories"]
    assert [(s["name"], s["opens"]) for s in info["slots"]] == [("environment", None), ("escrow", None)]
    assert [e["current"] for e in info["epochs"]] == [True]
    assert info["fingerprint"] == made.repository.repository.config.fingerprint
    assert "kept off-line" in made.cli("keys", "list", "primary").text


def test_check_opens_what_it_has_a_secret_for(made: Made) -> None:
    result = made.cli("keys", "check", "primary", MINGUS_ESCROW_KEY=made.repository.escrow)
    assert result.code == 0
    assert [line.split()[-1] for line in result.text.splitlines() if line.startswith(("environment", "escrow"))] == [
        "yes", "yes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"BACKUP_ENCRYPTION_KEY": ""}, "no key for"),
        ({"BACKUP_ENCRYPTION_KEY": OTHER_KEY}, "1 slots do not open with the secret at hand"),
        ({"MINGUS_ESCROW_KEY": "MINGUS-ESCROW-1-AAAA-BBBB"}, "the escrow key was mistyped"),
    ],
)
def test_check_fails_for_a_missing_or_wrong_secret(environment: dict[str, str], says: str, made: Made) -> None:
    result = made.cli("keys", "check", "primary", **environment)
    assert result.code == 3
    assert says in result.err
    assert OTHER_KEY not in result.err + result.text


def test_an_added_passphrase_opens_old_and_new_snapshots_and_a_wrong_one_nothing(made: Made) -> None:
    result = made.cli("keys", "add-passphrase", "primary", "--json", MINGUS_NEW_PASSPHRASE=PASSPHRASE)
    assert (result.code, result.document["added"]) == (0, "passphrase")
    assert PASSPHRASE not in result.text + result.err
    assert made.cli("keys", "rotate", "primary").code == 0
    for passphrase, code in ((PASSPHRASE, 0), (PASSPHRASE + "!", 3)):
        opened = made.cli("cat", "latest", "base/1/small", BACKUP_ENCRYPTION_KEY="", MINGUS_PASSPHRASE=passphrase)
        assert opened.code == code
        assert opened.out == (made.tree.files[b"base/1/small"] if code == 0 else b"")
        assert passphrase not in opened.err


def test_a_passphrase_comes_from_a_file_too_and_must_not_be_short(made: Made) -> None:
    file = made.cli.directory / "secret"
    for text, code in (("short", 2), (PASSPHRASE, 0)):
        file.write_text(text + "\n")
        result = made.cli("keys", "add-passphrase", "primary", "--passphrase-file", str(file))
        assert result.code == code
        assert text not in result.text + result.err or text == "short"
    assert made.cli("keys", "add-passphrase", "primary").code == 2  # no terminal to ask on


def test_rotate_makes_a_fresh_epoch_current_and_leaves_old_snapshots_readable(made: Made) -> None:
    before = made.repository.repository.config
    report = made.cli("keys", "rotate", "primary", "--json").document
    assert report["epoch"] == report["added"] != before.epoch
    (info,) = made.cli("keys", "check", "primary", "--json").document["repositories"]
    assert [e["ulid"] for e in info["epochs"] if e["current"]] == [report["epoch"]]
    assert len(info["epochs"]) == 2
    assert made.cli("cat", "latest", "base/1/small").out == made.tree.files[b"base/1/small"]
    later = made.repository.reopened()
    made.repository.repository = later
    manifest = repositories.backed_up(made.repository, repositories.small_source(1))
    assert manifest.envelope.placement["epoch"] == report["epoch"]
    escrow = made.cli("show", manifest.ulid, BACKUP_ENCRYPTION_KEY="", MINGUS_ESCROW_KEY=made.repository.escrow)
    assert escrow.code == 0
    assert TEST_KEY not in escrow.text
