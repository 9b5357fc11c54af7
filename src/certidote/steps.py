"""The one operation in which every optimizer here ends: weights move along a direction."""

from torch import Tensor


def move(weight: Tensor, direction: Tensor, distance: float | Tensor, times: float = -1.0) -> None:
    """weight += times * distance * direction, in place.

    Args:
        distance: a number, or a tensor of one value on the weight's device: then the host need not know it, as in steps that a GPU replays.
    """
    if isinstance(distance, Tensor):
        weight.addcmul_(direction, distance, value=times)
    else:
        weight.add_(direction, alpha=times * distance)
