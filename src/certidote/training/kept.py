"""Members' weights as bytes: one safetensors archive for each block of members, and the members out of it again, one at a time."""

from collections.abc import Iterator

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from certidote.streams import Key
from certidote.training.model_dir import filled, state_of
from certidote.training.models import ARCHITECTURES, ModelStack, build
from certidote.training.own import is_own


def packed(stack: ModelStack) -> bytes:
    """The weights of all members of a stack; member i's are named "i.NAME"."""
    return save({f"{i}.{name}": value for i in range(len(stack)) for name, value in state_of(stack.member(i)).items()})


def states(content: bytes, members: int, where: str) -> list[dict[str, torch.Tensor]]:
    """The weights of each member of one archive.

    Raises: ValueError, naming `where`, if the archive is damaged or holds another number of members.
    """
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"{where} is damaged ({error})") from None
    found: list[dict[str, torch.Tensor]] = [{} for _ in range(members)]
    for name, value in tensors.items():
        number, _, rest = name.partition(".")
        if not number.isdecimal() or int(number) >= members:
            raise ValueError(f"{where} is damaged: it holds {name!r}, but should hold {members} members")
        found[int(number)][rest] = value
    return found


class MemberSlot:
    """One module that takes the weights of one member after the other: memory for one, however many there are.

    Args:
        architecture: of the members; code of the user's own must have been confirmed before.
        image_shape: (c, h, w).
    """

    def __init__(self, architecture: str, image_shape: tuple[int, int, int], num_classes: int) -> None:
        self.architecture, self.image_shape, self.num_classes = architecture, image_shape, num_classes
        self._model: nn.Module | None = None

    def holding(self, content: bytes, members: int, where: str) -> Iterator[nn.Module]:
        """The members of one archive in order, in eval mode and frozen; each is valid until the next is asked for.

        Raises: ValueError, naming `where`, if the archive does not hold these members.
        """
        for state in states(content, members, where):
            try:
                if self._model is None:
                    self._model = filled(self.architecture, self.image_shape, self.num_classes, state)
                else:
                    self._model.load_state_dict(state)
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"{where} is damaged: {' '.join(str(error).split())}") from None
            yield self._model


def bytes_of_member(architecture: str, image_shape: tuple[int, int, int], num_classes: int) -> int:
    """What one member's weights take on the disk."""
    if is_own(architecture):
        model = build(architecture, image_shape, num_classes, Key(0))
    else:
        with torch.device("meta"):
            model = ARCHITECTURES[architecture](image_shape, num_classes)
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())
