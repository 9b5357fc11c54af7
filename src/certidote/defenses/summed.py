"""Several differently seeded models that answer as one: their logits are added before the vote.

With parts this is DPA*: the sum depends on one part as a single model does, so the certificates of parts hold with the number of parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from certidote.streams import Key
from certidote.types import Images, Json, Stack, Trainer, TrainsInGroups, View


@dataclass(frozen=True, eq=False)
class SummedStack:
    """Members that are sums of models: a `Stack`. A member failed if any of its models did.

    Attributes:
        stacks: first models of all members, second models, ...; their sums are in this order.
    """

    stacks: Sequence[Stack]

    @property
    def failed(self) -> Bool[Tensor, "members"]:
        return torch.stack([stack.failed for stack in self.stacks]).any(0)

    def __call__(self, images: Images) -> Float64[Tensor, "members n classes"]:
        return torch.stack([stack(images).double() for stack in self.stacks]).sum(0)

    def member(self, index: int) -> Callable[[Images], Float[Tensor, "n classes"]]:
        models = [stack.member(index) for stack in self.stacks]
        return lambda images: torch.stack([model(images).double() for model in models]).sum(0)


class SummedTrainer:
    """A `Trainer` whose members are sums of `copies` models of another trainer, trained on one view from different keys.

    Source: Rezaei et al. 2023, DPA*. Cost: `copies` times the other trainer's.
    """

    def __init__(self, trainer: Trainer, copies: int) -> None:
        """Raises: ValueError for fewer than 1 copy."""
        if copies < 1:
            raise ValueError(f"copies={copies}; a member needs at least 1 model")
        self.trainer, self.copies = trainer, copies
        self.stack_size, self.start = trainer.stack_size, trainer.start
        self.together = trainer.together if isinstance(trainer, TrainsInGroups) else trainer.stack_size

    def describe(self) -> Json:
        return {"trainer": "summed", "copies": self.copies, "of": self.trainer.describe()}

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> SummedStack:
        """The first model of a member is the one that the other trainer makes from the member's key."""
        seeds = [list(keys), *([key / "copy" / copy for key in keys] for copy in range(1, self.copies))]
        return SummedStack([self.trainer.fit(views, some, common) for some in seeds])
