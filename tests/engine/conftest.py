import pytest


@pytest.fixture(autouse=True)
def _the_check_trains_member_17_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run one member drawn at random is trained again; here always this one, so that trainings can be counted."""
    monkeypatch.setattr("certidote.engine.pick", lambda members, wanted: [members[min(17, len(members) - 1)]])
