"""Number formats: what is asked for, and what a GPU is taken to be good at."""

import pytest
import torch

from certidote import numerics
from certidote.numerics import fast_dtype, resolve_dtype


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16"), ((12, 1), "bfloat16")]
)
def test_a_gpu_is_asked_for_its_tensor_cores_and_not_timed(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(numerics, "_probe", lambda dtype: pytest.fail("a probe of microseconds tells nothing about a GPU"))
    assert resolve_dtype("auto", "cuda") == expected


@pytest.mark.parametrize(("seconds", "expected"), [((1.0, 0.9), "float32"), ((1.0, 0.8), "bfloat16")])
def test_a_processor_is_timed(seconds: tuple[float, float], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "_probe", lambda dtype: seconds[dtype == torch.bfloat16])
    assert fast_dtype() == expected


def test_formats_that_are_asked_for() -> None:
    assert [resolve_dtype(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    with pytest.raises(ValueError, match=r"unknown dtype 'half'; choose one of: auto, bfloat16, float32"):
        resolve_dtype("half")
