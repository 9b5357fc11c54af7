"""Sizes of steps, one for all channels of an image or one for each."""

from typing import TypeAlias

StepSize: TypeAlias = float | tuple[float, ...]
"""[0, 1] pixel units: of all channels, or of each."""


def check_steps(steps: int, step_size: StepSize) -> None:
    """Raises: ValueError if there is no step, or one is not in (0, 1]."""
    sizes = step_size if isinstance(step_size, tuple) else (step_size,)
    if steps < 1 or not all(0 < size <= 1 for size in sizes):
        raise ValueError(
            f"steps={steps}, step_size={step_size}; both must be positive, and step_size, in [0, 1] pixel units, at most 1 (16/255 for 16 levels)"
        )


def of_channels(step_size: StepSize, channels: int) -> tuple[float, ...]:
    """The size for each of so many channels. Raises: ValueError if there is neither one size nor one for each channel."""
    sizes = step_size if isinstance(step_size, tuple) else (step_size,)
    if len(sizes) not in (1, channels):
        raise ValueError(f"{len(sizes)} step sizes for images of {channels} channels; give one, or one for each channel")
    return sizes if len(sizes) == channels else sizes * channels
