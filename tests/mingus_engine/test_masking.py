"""Masked texts show what changed in a configuration, and none of its secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine.masking import MASK, mask

SECRET = "hunter2-Zq"


@pytest.mark.parametrize(
    "text",
    [
        f"password = {SECRET}",
        f"password: '{SECRET}'",
        f'{{"user": "a", "db_password": "{SECRET}", "port": 1}}',
        f"export PGPASSWORD={SECRET}",
        f"requirepass {SECRET}",
        f"masterauth {SECRET}",
        f"machine x login y password {SECRET}",
        f"curl --token {SECRET} https://x",
        f"api_key={SECRET}",
        f"apiKey: {SECRET}",
        f"aws_secret_access_key = {SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"dsn: postgresql://u:{SECRET}@db/x",
        f"url = redis://:{SECRET}@cache:6379/0",
        f"amqp://user:{SECRET}/with/slashes@host",
        f"<password>{SECRET}</password>",
        f'<entry key="db.password">{SECRET}</entry>',
        f'<property name="password" value="{SECRET}"/>',
        f'- name: DB_PASSWORD\n  value: "{SECRET}"',
        f"passwords:\n  - {SECRET}\n  - x{SECRET}",
        f"secret: |\n  first {SECRET}\n\n  second {SECRET}",
        f'tokens = [\n  "{SECRET}",\n]',
        f'password = "first\n{SECRET}\nlast"',
        f"PASSWORD=first\\\n{SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",  # not a secret
        f"key: -----BEGIN PRIVATE KEY-----{SECRET}-----END PRIVATE KEY-----",  # not a secret
        f"db.example:5432:shop:app:{SECRET}",
        f"user app on >{SECRET} ~* +@all",
        f"root:$6$salt${SECRET}:19000:0",
        f"$settings['db_password'] = '{SECRET}';",
        f"set password {SECRET};",
    ],
)
def test_a_secret_that_its_place_gives_away_is_masked(text: str) -> None:
    assert SECRET not in mask(text)
    assert mask(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "word",
    [
        "AKIA" + "Q3EXAMPLE7ABCDE2",
        "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5",
        "q8Yt2LmPzX0vB7nKd4RwEa9s",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "c2VjcmV0IHdvcmRzIHRoYXQgYXJlIGxvbmcgZW5vdWdo0",
    ],
)
def test_a_secret_that_its_form_gives_away_is_masked(word: str) -> None:
    assert word not in mask(f"something {word} else")


def test_what_is_no_secret_stays_readable() -> None:
    text = (
        "listen_addresses = '*'\nport = 5432\nshared_buffers = 4GB\n# a remark about nothing\n"
        "include /etc/nginx/conf.d/some-long-name-of-a-site.conf;\n"
        "server_name shop.example.internal;\nmax_connections = 100\nkeyboard: de\nauthor: somebody\n"
        "archive_command = '/usr/local/bin/mingus wal push ledger %p'\nlog_line_prefix = '%m [%p] %q%u@%d '"
    )
    assert mask(text) == text


def test_a_name_is_kept_and_what_follows_a_block_is_seen_again() -> None:
    text = "secret:\n  a: 1\nport: 5\n-----BEGIN X-----\nabc\n-----END X-----\nhost: h"
    assert mask(text) == f"secret:\n{MASK}\nport: 5\n-----BEGIN X----- {MASK}\n{MASK}\n-----END X-----\nhost: h"


def test_an_endless_line_is_not_looked_into() -> None:
    assert mask("a" * 1_000_000) == f"{MASK} (1000000 characters)"


@given(st.text(max_size=400))
def test_any_text_keeps_its_number_of_lines_and_ends(text: str) -> None:
    assert mask(text).count("\n") == text.count("\n")
