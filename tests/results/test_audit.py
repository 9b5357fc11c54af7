"""A certificate that somebody tampered with is found out; one that nobody touched is not."""

import copy
import json
import lzma
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certidote import cli, verbs
from certidote.data import xz
from certidote.engine import evidence
from certidote.engine.evidence import Evidence, pack
from certidote.results.audit import audit, differences, record_of
from certidote.results.files import write_json

MEMBERS = 50
SEEDED = "the seed was given by hand: alpha, bound and number of models may have been chosen after looking at votes"


def small_run(out: Path, seed: int = 3, sigma: float = 0.5) -> Path:
    verbs.certify("digits", out=out, sigma=sigma, models=40, n0=10, denoiser="none", seed=seed, workers=0, dtype="float32")
    return out


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("honest") / "run")


@pytest.fixture
def run(honest: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(honest, tmp_path / "run"))


def wrong(result: verbs.Verified) -> str:
    assert not result.ok
    return "\n".join(each.text for each in result.findings if each.verdict == "wrong")


def verify(run: Path, ledger: Path | None = None, **options: Any) -> verbs.Verified:
    return verbs.verify(run / "certificate.json", ledger or run, **options)


def in_ledger(run: Path, statement: str, *values: Any) -> None:
    database = sqlite3.connect(run / "ledger.sqlite")
    changed = database.execute(statement, values).rowcount
    database.commit()
    database.close()
    assert changed >= 1


# -------------------------------------------------------------------------------------------------------------- accepted


def test_an_honest_run_is_verified_and_left_as_it_is(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    result = verify(run, rerun=3)
    assert result.ok
    assert result.proved
    texts = [each.text for each in result.findings]
    assert sum("trained again, cast all 400 votes" in text for text in texts) == 3
    assert sum("holds what the ledger proves" in text for text in texts) == 2
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_the_same_command_writes_the_same_certificate(run: Path) -> None:
    before = (run / "certificate.json").read_bytes()
    small_run(run)
    assert (run / "certificate.json").read_bytes() == before


def test_a_compressed_ledger_is_as_good_and_written_once(run: Path) -> None:
    pack(run / "ledger.sqlite", run / "ledger.sqlite.xz")
    (run / "ledger.sqlite").unlink()
    assert verify(run).ok
    with pytest.raises(ValueError, match="written once"):
        pack(run / "ledger.sqlite.xz", run / "ledger.sqlite.xz")


def test_evidence_cannot_be_written(run: Path) -> None:
    for target in (run, run / "ledger.sqlite.xz"):
        if target.suffix:
            pack(run / "ledger.sqlite", target)
        with Evidence(target) as ledger, pytest.raises(ValueError, match="readonly"):
            ledger.put("subject 2", {})


# ------------------------------------------------------------------------------------------------ the certificate is edited


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """One place for every kind of leaf: of lists, the last entry."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, (*place, name))
    elif isinstance(value, list) and value:
        yield from leaves(value[-1], (*place, -1))
    else:
        yield place


def edited(record: Any, place: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(record)
    holder = changed
    for name in place[:-1]:
        holder = holder[name]
    old = holder[place[-1]]
    if isinstance(old, bool):
        holder[place[-1]] = not old
    elif isinstance(old, int):
        holder[place[-1]] = old + 1
    elif isinstance(old, float):
        holder[place[-1]] = float(np.nextafter(old, 9))
    elif isinstance(old, str):
        holder[place[-1]] = old + "."
    else:
        holder[place[-1]] = "something"
    return changed


def test_an_edit_of_any_field_is_found(honest: Path) -> None:
    record = json.loads((honest / "certificate.json").read_text())
    places = list(leaves(record))
    names = {place[0] for place in places}
    assert names == set(record), "every field of the certificate is edited once"
    assert {"claim", "assumptions", "alpha", "n", "sigma", "results", "per_image", "code", "bound", "conditioning"} <= names
    for place in places:
        compared, found = differences(edited(record, place), record)
        assert compared > 1_000
        assert len(found) == 1
        assert str(place[0]) in found[0]
    for name in record:
        rest = {key: value for key, value in record.items() if key != name}
        assert len(differences(rest, record)[1]) == 1, name
    with Evidence(honest) as ledger:
        assert [each.text for each in audit(record, ledger) if each.verdict != "right"] == [SEEDED]
        assumptions = [{**item, "verdict": "enforced"} for item in record["assumptions"]]
        changed = record | {"certified_by": "a friend", "assumptions": assumptions}
        found = [each.text for each in audit(changed, ledger) if each.verdict == "wrong"]
    assumed = sum(item["verdict"] != "enforced" for item in record["assumptions"])
    assert found[0] == 'certified_by is "a friend" in the certificate, but absent by the ledger'
    assert [text.split(" is ")[0].split("[")[0] for text in found[1:]] == ["assumptions"] * assumed


def test_an_edited_table_is_found(run: Path) -> None:
    path = run / "images.csv"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert wrong(verify(run)) == "images.csv does not hold what the ledger proves"


# ----------------------------------------------------------------------------------------------------- the ledger is not its own


def test_another_run_of_the_same_command_is_not_its_ledger(run: Path, tmp_path: Path) -> None:
    text = wrong(verify(run, small_run(tmp_path / "other", seed=4)))
    assert "not the certificate's ledger: its record of votes" in text
    assert "its configuration" not in text, "the configuration is the same"


def test_votes_of_another_configuration_are_found(run: Path, tmp_path: Path) -> None:
    text = wrong(verify(run, small_run(tmp_path / "other", sigma=0.6)))
    assert "not the certificate's ledger: its configuration" in text
    assert "sigma is 0.5 in the certificate, but 0.6 by the ledger" in text


def test_a_missing_member_is_found(run: Path) -> None:
    in_ledger(run, "DELETE FROM blocks WHERE first = 32")
    text = wrong(verify(run))
    assert f"member 32 is missing of {MEMBERS}" in text
    assert "proved is true in the certificate, but false by the ledger" in text


def test_a_missing_block_in_the_middle_is_found(run: Path) -> None:
    in_ledger(run, "UPDATE blocks SET first = 33, last = 51 WHERE first = 32")
    assert "member 32 is missing of 50 that were fixed beforehand; members from 33 on are there" in wrong(verify(run))


def change_votes(run: Path) -> None:
    """Give every member of the last block the true answer for every test image."""
    database = sqlite3.connect(run / "ledger.sqlite")
    first, last = database.execute("SELECT max(first), max(last) FROM blocks").fetchone()
    labels = json.loads(database.execute("SELECT value FROM meta WHERE name = 'subject'").fetchone()[0])["test_labels"]
    votes = np.tile(np.array(labels, dtype=np.uint8), (last - first, 1)).tobytes()
    database.execute("UPDATE blocks SET votes = ? WHERE first = ?", (votes, first))
    database.commit()
    database.close()


def test_an_edited_vote_is_found(run: Path) -> None:
    change_votes(run)
    assert "its record of votes has the digest" in wrong(verify(run))


def test_made_up_votes_with_a_fitting_certificate_are_found_by_training_again(run: Path) -> None:
    change_votes(run)
    with Evidence(run) as ledger:
        record = json.loads(json.dumps(record_of(ledger)))
    verbs.reports.write_results(run, record, {"examples": [], "gallery": []})
    assert verify(run).ok, "without retraining, nobody can tell"
    result = verify(run, rerun=MEMBERS)
    found = [each.text for each in result.findings if each.verdict == "wrong"]
    assert {int(text.split(",")[0].removeprefix("member ")) for text in found} == set(range(32, 50))


def test_members_under_numbers_not_their_own_are_found(run: Path) -> None:
    in_ledger(run, "UPDATE blocks SET first = first + 100, last = last + 100")
    in_ledger(run, "UPDATE blocks SET first = 0, last = 18 WHERE first = 132")
    in_ledger(run, "UPDATE blocks SET first = 18, last = 50 WHERE first = 100")
    assert "the noise of member 0 does not come from the disclosed root; 50 members are so" in wrong(verify(run))


def test_another_root_is_found(run: Path) -> None:
    in_ledger(run, "UPDATE meta SET value = '\"0x4\"' WHERE name = 'root'")
    text = wrong(verify(run))
    assert "does not come from the disclosed root" in text
    assert 'root is "0x3" in the certificate' in text


def test_a_ledger_that_contradicts_itself_is_found(run: Path) -> None:
    in_ledger(run, "UPDATE meta SET value = replace(value, '\"digest\": \"', '\"digest\": \"ff') WHERE name = 'subject'")
    with pytest.raises(ValueError, match=r"denoiser\.digest"):
        verify(run)


# ---------------------------------------------------------------------------------------------------------------- training again


def test_other_data_is_named_and_not_trained_on(run: Path) -> None:
    text = wrong(verify(run, rerun=1, data="digits:trusted"))
    assert "the training images found here are not the run's: digest" in text
    assert "no member could be trained again" in text
    assert "the test images found here" in wrong(verify(run, rerun=1, test="digits:train"))
    assert "the denoiser found here" in wrong(verify(run, rerun=1, denoiser="digits"))


def test_a_run_that_is_not_finished_is_refused(run: Path) -> None:
    in_ledger(run, "DELETE FROM meta WHERE name = 'completed'")
    with pytest.raises(ValueError, match="is not finished"):
        verify(run)


# ------------------------------------------------------------------------------------------------------------------ command line


def status(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["certidote", "verify", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_exit_status_tells(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "certificate.json"
    assert status(monkeypatch, path, run) == 0
    said = capsys.readouterr().out
    assert "all " in said
    assert "No check can see:" in said
    record = json.loads(path.read_text())
    write_json(path, record | {"claim": record["claim"].replace("1 - 0.001", "1 - 0.0001")})
    assert status(monkeypatch, path, run) == 1
    assert "NOT VERIFIED" in capsys.readouterr().out


def test_what_cannot_be_read_is_one_line_and_status_2(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, empty = run / "certificate.json", tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text").write_text("no ledger" * 500)
    (tmp_path / "packed.xz").write_bytes(b"no archive")
    (tmp_path / "broken.json").write_text("{")
    cases = (
        ((tmp_path / "none.json", run), "cannot read"),
        ((tmp_path / "broken.json", run), "is damaged"),
        ((certificate, empty), "holds neither ledger.sqlite nor"),
        ((certificate, tmp_path / "nowhere"), "there is no run at"),
        ((certificate, tmp_path / "text"), "not a ledger"),
        ((certificate, tmp_path / "packed.xz"), "not a ledger"),
        ((certificate, run, "--rerun", "-1"), "rerun=-1"),
        ((certificate, run, "--rerun", "1", "--data", "/nowhere"), "/nowhere"),
    )
    for arguments, text in cases:
        assert status(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert text in error
        assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1


def test_a_compressed_ledger_from_a_stranger_is_unpacked_within_bounds(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of some kilobytes that become gigabytes no more is unpacked than is allowed; a decoder takes no more memory than xz does."""
    packed, ledger = tmp_path / "bomb.xz", (run / "ledger.sqlite").read_bytes()

    def refused(text: str) -> None:
        assert status(monkeypatch, run / "certificate.json", packed) == 2
        error = capsys.readouterr().err
        assert text in error
        assert len(error.splitlines()) == 1

    packed.write_bytes(lzma.compress(ledger + bytes(80 * 2**20)))
    refused("votes do not compress like that")
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "MAX_UNPACKED", 10_000)
        packed.write_bytes(lzma.compress(ledger))
        refused("unpacks to more than 10,000 bytes; unpack it yourself")
    monkeypatch.setattr(xz, "MEMORY", 2**20)
    refused("is damaged or not a ledger (Memory usage limit exceeded)")


# ------------------------------------------------------------------------------------------------- forgeries that fit together


def remade(run: Path) -> None:
    """The certificate that the ledger proves, as a forger would make it."""
    with Evidence(run) as ledger:
        record = json.loads(json.dumps(record_of(ledger)))
    verbs.reports.write_results(run, record, {"examples": [], "gallery": []})


def replace_in(run: Path, name: str, old: str, new: str) -> None:
    in_ledger(run, f"UPDATE meta SET value = replace(value, ?, ?) WHERE name = '{name}'", old, new)


@pytest.mark.parametrize(
    "excuse",
    [
        "UPDATE meta SET value = replace(value, '\"torch\": \"', '\"torch\": \"9.') WHERE name = 'config'",
        'UPDATE parts SET numerics = replace(numerics, \'"processor": "\', \'"processor": "other \')',
        "DELETE FROM parts",
    ],
    ids=["other software", "another processor", "no numerics"],
)
def test_made_up_votes_are_found_whatever_the_ledger_says_about_rounding(excuse: str, run: Path) -> None:
    change_votes(run)
    in_ledger(run, excuse)
    remade(run)
    assert "votes otherwise" in wrong(verify(run, rerun=MEMBERS))


def test_members_that_cannot_be_tested_here_are_not_passed(run: Path) -> None:
    change_votes(run)
    in_ledger(run, "UPDATE parts SET numerics = replace(numerics, '{', '{\"noise\": \"Philox\", ')")
    remade(run)
    assert "whose noise this device cannot draw; it was not tested" in wrong(verify(run, rerun=3))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose root came from the operating system."""
    out = tmp_path_factory.mktemp("drawn") / "run"
    verbs.certify("digits", out=out, sigma=0.5, models=40, n0=10, denoiser="none", workers=0, dtype="float32")
    return out


def test_a_root_is_bound_to_its_configuration(drawn: Path) -> None:
    result = verify(drawn)
    assert result.ok
    assert any("was drawn for this configuration" in each.text for each in result.findings)


@pytest.mark.parametrize(("old", "new"), [('"alpha": 0.001', '"alpha": 0.2'), ('"n0": 10, "n": 40', '"n0": 3, "n": 47')])
def test_what_is_chosen_after_looking_at_votes_is_found(old: str, new: str, drawn: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(drawn, tmp_path / "run"))
    replace_in(run, "config", old, new)
    remade(run)
    assert "the root of the noise was drawn for another configuration" in wrong(verify(run))


def test_stopping_where_the_count_looks_good_is_found(drawn: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(drawn, tmp_path / "run"))
    in_ledger(run, "DELETE FROM blocks WHERE first = 32")
    replace_in(run, "config", '"n": 40', '"n": 22')
    remade(run)
    assert "the root of the noise was drawn for another configuration" in wrong(verify(run))


def test_without_the_secret_nothing_is_said_to_be_bound(drawn: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(drawn, tmp_path / "run"))
    in_ledger(run, "DELETE FROM meta WHERE name = 'root_secret'")
    result = verify(run)
    assert any(each.verdict == "note" and "nothing binds it to the configuration" in each.text for each in result.findings)


def test_a_field_given_twice_is_refused(run: Path) -> None:
    path = run / "certificate.json"
    path.write_text(path.read_text().replace("{", '{"alpha": 1e-9, ', 1))
    with pytest.raises(ValueError, match="it gives 'alpha' twice"):
        verify(run)


def test_the_documented_check_of_a_kept_run_trains_again() -> None:
    kept = Path(__file__).parents[2] / "results" / "ablation" / "none-1"
    result = verbs.verify(kept / "certificate.json", kept, rerun=2)
    assert result.ok
    assert sum(each.text.startswith("member ") for each in result.findings) == 2


def test_other_software_may_round_the_last_digits_and_no_more(run: Path) -> None:
    path = run / "certificate.json"
    record = json.loads(path.read_text())
    last = float(np.nextafter(record["results"]["average_radius"], 9))
    for versions, value, ok in (
        (record["versions"], last, False),
        ({"scipy": "9"}, last, True),
        ({"scipy": "9"}, last + 1e-9, False),
    ):
        changed = copy.deepcopy(record)
        changed["results"]["average_radius"], changed["versions"] = value, versions
        with Evidence(run) as ledger:
            texts = [each.text for each in audit(changed, ledger) if each.verdict == "wrong" and "versions" not in each.text]
        assert (not texts) == ok
