from pathlib import Path

import pytest

from certidote import verbs


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight targets on the digits 5 to 9, in transfer learning; tests leave it as it is."""
    out = tmp_path_factory.mktemp("packs") / "pack"
    made = verbs.poison(
        "bullseye-polytope", "digits-5-9", out=out, targets=8, num_poisons=10, epsilon="0.4347", option=["steps=60", "step_size=0.03"],
        seed=1,
    )  # fmt: skip
    assert made.out == out
    return out
