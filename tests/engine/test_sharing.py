"""One certificate from several machines: members are assigned beforehand, ledgers merge, status tells where a run stands."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from certidote import engine, verbs
from certidote.certification.lineage import assumptions
from certidote.engine.assignment import assign, parse_members
from certidote.engine.code import code_identity
from certidote.engine.jobs import BlockRecord, Job
from certidote.engine.ledger import Ledger, Part
from certidote.engine.merging import merge_ledgers
from certidote.types import Ballots, DenoiserCard, ImageDataset, Lineage
from faulty import SCHEME, TEST, Faulty

HERE = {"device": "cpu", "processor": "x86_64 AVX2"}
THERE = {"device": "cpu", "processor": "x86_64 AVX512"}
CONFIG = {"scheme": {"n0": 3, "n": 17}, "data": "aa"}


def block(first: int, last: int, num_tests: int = 60) -> BlockRecord:
    members = np.arange(first, last)
    votes = (members[:, None] * 7 + np.arange(num_tests)) % 3
    return BlockRecord(Job(first, last), votes, members % 5 == 4, members, Lineage(sigma=3.0, draws=1), 0.5, 0.25)


def ledger_at(
    path: Path, *blocks: tuple[int, int], part: range | None = None, numerics: dict[str, str] = HERE, **config: object
) -> Path:
    path.parent.mkdir(exist_ok=True)
    with Ledger(path) as ledger:
        ledger.configure(CONFIG | config)
        ledger.key(7)
        assign(ledger, part, 20, numerics)
        for first, last in blocks:
            ledger.commit(block(first, last), 3)
    return path


def ballots_at(path: Path, test: ImageDataset = TEST) -> Ballots:
    with Ledger(path) as ledger:
        return engine.ballots(ledger, test)


# ------------------------------------------------------------------------------------------------------------ assignment


def test_a_run_without_a_range_has_all_members_and_keeps_its_numerics(tmp_path: Path) -> None:
    path = ledger_at(tmp_path / "l", (0, 8))
    with Ledger(path) as ledger:
        assert ledger.parts() == [Part(0, 20, HERE)]
        assert assign(ledger, None, 20, HERE) == [range(20)]
        with pytest.raises(ValueError, match=r"with processor x86_64 AVX2, but the workers here have processor x86_64 AVX512"):
            assign(ledger, None, 20, THERE)
        ledger.commit(block(8, 20), 3)
        assert assign(ledger, None, 20, THERE) == [range(20)], "nothing is left to be computed"


def test_another_range_is_refused(tmp_path: Path) -> None:
    path = ledger_at(tmp_path / "l", part=range(11))
    with Ledger(path) as ledger:
        assert assign(ledger, range(11), 20, HERE) == [range(11)]
        with pytest.raises(ValueError, match=r"was assigned members 0:11, but this command asks for 0:20; give --members 0:11"):
            assign(ledger, None, 20, HERE)
        with pytest.raises(ValueError, match=r"members 5:21 is no range within the 20 members"):
            assign(ledger, range(5, 21), 20, HERE)


@pytest.mark.parametrize("text", ["5", "5:5", "7:3", "a:b", ":5", "5:", "-1:4", "0:5:9"])
def test_only_ranges_are_members(text: str) -> None:
    with pytest.raises(ValueError, match="give the first number and the one after the last, such as 0:550"):
        parse_members(text)


def test_a_range_is_read() -> None:
    assert parse_members("") is None
    assert parse_members("0:550") == range(550)


# --------------------------------------------------------------------------------------------------------------- merging


def test_merged_votes_are_those_of_one_run_whatever_the_blocks(tmp_path: Path) -> None:
    whole = ballots_at(ledger_at(tmp_path / "whole" / "l", (0, 8), (8, 16), (16, 20)))
    first = ledger_at(tmp_path / "a" / "l", (0, 8), (8, 11), part=range(11))
    second = ledger_at(tmp_path / "b" / "l", (11, 16), (16, 20), part=range(11, 20))
    merged = tmp_path / "merged"
    for order in ([first, second], [second, first]):
        assert merge_ledgers(order, merged) == 20
        ballots = ballots_at(merged)
        assert np.array_equal(ballots.votes, whole.votes)
        assert np.array_equal(ballots.failed, whole.failed)
        assert np.array_equal(ballots.noise_ids, whole.noise_ids)
        assert ballots.provenance.mixture == ()
        with Ledger(merged) as ledger:
            assert ledger.seconds() == (2.0, 1.0)
        merged.unlink()


def test_a_mixture_of_numerics_is_named_by_the_certificate(tmp_path: Path) -> None:
    first = ledger_at(tmp_path / "a" / "l", (0, 11), part=range(11))
    second = ledger_at(tmp_path / "b" / "l", (11, 20), part=range(11, 20), numerics=THERE)
    merge_ledgers([first, second], tmp_path / "m")
    ballots = ballots_at(tmp_path / "m")
    said = "members 0 to 10 on cpu, x86_64 AVX2; members 11 to 19 on cpu, x86_64 AVX512"
    entries = assumptions(ballots, DenoiserCard("none", "none", ""))
    assert [entry.evidence for entry in entries if "may round differently" in entry.text] == [said]


def test_what_a_merged_ledger_still_lacks_is_done_by_whoever_it_was_assigned_to(tmp_path: Path) -> None:
    first = ledger_at(tmp_path / "a" / "l", (0, 8), part=range(11))
    second = ledger_at(tmp_path / "b" / "l", (11, 20), part=range(11, 20), numerics=THERE)
    merge_ledgers([first, second], tmp_path / "m")
    assert len(ballots_at(tmp_path / "m")) == 8, "a certificate takes the members before the first gap"
    with Ledger(tmp_path / "m") as ledger:
        with pytest.raises(ValueError, match="computes 0:11 with processor x86_64 AVX2"):
            assign(ledger, None, 20, THERE)
        assert assign(ledger, None, 20, HERE) == [range(11), range(11, 20)]


def test_members_of_no_machine_cannot_join_a_mixture(tmp_path: Path) -> None:
    first = ledger_at(tmp_path / "a" / "l", (0, 8), part=range(8))
    second = ledger_at(tmp_path / "b" / "l", (11, 20), part=range(11, 20), numerics=THERE)
    merge_ledgers([first, second], tmp_path / "m")
    with Ledger(tmp_path / "m") as ledger, pytest.raises(ValueError, match="members 8 to 10 were not assigned to a machine before"):
        assign(ledger, None, 20, HERE)


def test_what_does_not_belong_together_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    first = ledger_at(tmp_path / "a" / "l", (0, 8), part=range(11))
    (tmp_path / "empty").mkdir()
    cases = {
        "more": (ledger_at(tmp_path / "more" / "l", part=range(10, 20)), "was assigned 10:20, a ledger before it 0:11"),
        "data": (
            ledger_at(tmp_path / "data" / "l", part=range(11, 20), data="bb"),
            "a was run with data=aa, but .*data with data=bb",
        ),
        "none": (tmp_path / "empty" / "l", "empty holds no ledger"),
    }
    with Ledger(tmp_path / "b") as ledger:
        ledger.configure(CONFIG)
        ledger.key(8)
    cases["root"] = (
        tmp_path / "b",
        "has root 0x7, but .* has 0x8; machines that share a certificate start from copies of one prepared run",
    )
    for second, message in cases.values():
        with pytest.raises(ValueError, match=message):
            merge_ledgers([first, second], tmp_path / "m")
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("m") and path.name != "more"]
    with pytest.raises(ValueError, match="merging takes at least 2"):
        merge_ledgers([first], tmp_path / "m")
    with pytest.raises(ValueError, match="exists already"):
        merge_ledgers([first, first], first)
    with Ledger(first), pytest.raises(ValueError, match="in use by another run"):
        merge_ledgers([first, cases["data"][0]], tmp_path / "m")


# ---------------------------------------------------------------------------------------------------------------- status


def test_status_reads_a_run_that_is_at_work_and_changes_nothing(tmp_path: Path) -> None:
    path = ledger_at(tmp_path / "ledger.sqlite", (0, 8), part=range(11))
    before = path.read_bytes(), path.stat().st_mtime_ns
    found = verbs.status(tmp_path)
    assert (found.stage, found.voted, found.assigned, found.members) == ("stopped", 8, 11, 20)
    assert found.proved is None
    assert not found.in_use
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.sqlite"]
    with Ledger(path) as ledger:
        assert verbs.status(tmp_path).in_use
        assert verbs.status(tmp_path).stage == "training"
        ledger.commit(block(8, 11), 3)
        assert verbs.status(tmp_path).voted == 11
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.sqlite"]
    (tmp_path / "certificate.json").write_text('{"proved": true}')
    assert verbs.status(tmp_path).stage == "certified"


def test_the_rate_is_that_of_the_latest_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr("certidote.engine.ledger.time.time", lambda: next(now))
    ledger_at(tmp_path / "ledger.sqlite", (0, 4), (4, 8), (8, 16))
    monkeypatch.setattr("certidote.engine.ledger.time.time", lambda: 142.0)
    found = verbs.status(tmp_path)
    assert found.rate == pytest.approx(12 / 30), "4 + 8 members in the 30 seconds after the first commit"
    assert found.idle == pytest.approx(12.0)


def test_status_of_a_run_killed_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    """SQLite has to undo half a transaction before anybody can read: in a copy, not in the run."""
    live, dead = tmp_path / "live", tmp_path / "dead"
    path = ledger_at(live / "ledger.sqlite", (0, 8))
    dead.mkdir()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA cache_size=1")
    writer.execute("BEGIN")
    writer.execute("UPDATE blocks SET last = 4")
    for i in range(50):
        writer.execute("INSERT INTO failures VALUES (0, 0, 0, ?)", (f"{i}" * 5_000,))
    for name in ("ledger.sqlite", "ledger.sqlite-journal"):
        (dead / name).write_bytes((live / name).read_bytes())
    writer.close()
    before = {file.name: file.read_bytes() for file in dead.iterdir()}
    assert verbs.status(dead).voted == 8
    assert not verbs.status(dead).failures
    assert {file.name: file.read_bytes() for file in dead.iterdir()} == before


def test_status_of_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no ledger\.sqlite"):
        verbs.status(tmp_path)
    (tmp_path / "ledger.sqlite").write_text("no database" * 100)
    with pytest.raises(ValueError, match="damaged or not a ledger"):
        verbs.status(tmp_path)


GPU = {"device": "cuda NVIDIA H200", "noise": "Philox", "processor": "x86_64 AVX512"}


def test_a_laptop_and_a_gpu_share_one_certificate(tmp_path: Path) -> None:
    laptop = ledger_at(tmp_path / "a" / "l", (0, 8), part=range(8))
    gpu = ledger_at(tmp_path / "b" / "l", (8, 20), part=range(8, 20), numerics=GPU)
    merged = tmp_path / "merged"
    merge_ledgers([gpu, laptop], merged)
    with Ledger(merged) as ledger:
        found = engine.provenance(ledger, None)
        assert engine.devices(ledger) == ["cpu", "cuda"]
    assert found.noise == "SFC64 and Philox"
    assert found.mixture == ("members 0 to 7 on cpu, x86_64 AVX2", "members 8 to 19 on cuda NVIDIA H200, Philox, x86_64 AVX512")


def test_where_a_run_computes_is_no_part_of_what_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device and build of torch decide how it rounds, which parts record; another configuration would be another run."""
    versions = []
    for build in ("2.13.0+cpu", "2.13.0+cu128", "2.14.0+cpu"):
        monkeypatch.setattr("torch.__version__", build)
        versions.append(code_identity(SCHEME, Faulty(Path())))
    assert versions[0] == versions[1]
    assert versions[0] != versions[2]
