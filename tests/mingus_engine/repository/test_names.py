import pytest
from hypothesis import given
from hypothesis import strategies as st

from mingus_engine import ulids
from mingus_engine.repository import names
from mingus_engine.store.base import is_name

SHA = "0123456789abcdef" * 4
RUN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
PARSERS = [names.pack, names.log, names.snapshot, names.log_key, names.record, names.run, names.config, names.key]

sources = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,62}\Z")
runs = st.binary(min_size=16, max_size=16).map(ulids.from_bytes)
shas = st.binary(min_size=32, max_size=32).map(bytes.hex)
lsns = st.integers(0, 2**64 - 1)
lineages = st.builds(names.wal_lineage, lsns, st.integers(0, 2**32 - 1), lsns) | st.builds(
    names.history_lineage, lsns, st.integers(0, 2**32 - 1)
)
anything = st.one_of(
    st.builds(names.PackName, sources, runs, st.integers(0, 10**9 - 1), shas, st.just("") | runs),
    st.builds(names.LogName, sources, lineages, lsns, lsns, shas, st.just("") | runs),
    st.builds(names.SnapshotName, sources, runs, shas),
    st.builds(names.LogKeyName, sources, runs, shas),
    st.builds(names.RecordName, sources, runs, st.sampled_from(["proof", "plan", "fence"]), shas),
    st.builds(names.RunName, sources, runs, st.sampled_from(["start", "end"])),
    st.builds(names.ConfigName, runs, shas),
    st.builds(names.KeyName, runs, sources, shas),
)


@given(anything)
def test_a_name_is_read_as_what_it_was_made_from_and_as_nothing_else(name: names.PackName) -> None:
    text = str(name)
    assert is_name(text)
    assert [found for parse in PARSERS if (found := parse(text)) is not None] == [name]


@given(anything, st.data())
def test_whatever_parses_is_spelt_in_one_way_only(name: names.PackName, data: st.DataObject) -> None:
    text = str(name)
    at = data.draw(st.integers(0, len(text)))
    changed = text[:at] + data.draw(st.text("0A-./az ١", max_size=2)) + text[at + data.draw(st.integers(0, 1)) :]
    for parse in PARSERS:
        found = parse(changed)
        assert found is None or str(found) == changed


@pytest.mark.parametrize(
    "text",
    [
        f"packs/s/{RUN}/01.{SHA}",
        f"packs/s/{RUN}/٣.{SHA}",
        f"packs/s/{RUN}/1.{SHA}.",
        f"packs/s/{RUN}/1.{SHA.upper()}",
        f"packs/S/{RUN}/1.{SHA}",
        f"packs/../{RUN}/1.{SHA}",
        f"packs/s/{RUN.lower()}/1.{SHA}",
        f"packs/s/{RUN}/1.{SHA}\n",
        f"packs/{'s' * 64}/{RUN}/1.{SHA}",
        f"packs/-s/{RUN}/1.{SHA}",
        f"snapshots/s/{RUN}.{SHA[:-1]}",
        f"runs/s/{RUN}.begin",
        f"logs/s/1/1/00000000/{'0' * 16}-{'f' * 16}.{SHA}",
        f"other/s/{RUN}.{SHA}",
        "",
    ],
)
def test_what_is_no_name_is_left_alone(text: str) -> None:
    assert [parse(text) for parse in PARSERS] == [None] * len(PARSERS)


def test_the_digest_in_a_name_is_found() -> None:
    assert names.stored_sha256(f"packs/s/{RUN}/1.{SHA}.{RUN}") == SHA
    assert names.stored_sha256(f"config/{RUN}.{SHA}") == SHA
    assert names.stored_sha256(f"runs/s/{RUN}.start") is None


def test_logs_of_a_source_called_keys_are_no_log_keys() -> None:
    assert names.log_key(f"logs/keys/1/1/00000000/{'0' * 16}-{'0' * 15}1.{SHA}") is None
