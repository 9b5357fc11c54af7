"""What a defense is made of: how members are fed, trained, polled, and what their ballots prove."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from certidote.streams import Key
from certidote.types.ballots import Ballots, Prediction
from certidote.types.certificates import Certificate, CountCertificate, Unproved
from certidote.types.lineage import Start, View
from certidote.types.untrusted import SealedInputs, Untrusted
from certidote.types.values import Images, Json


@runtime_checkable
class Stack(Protocol):
    """Trained members. Calling it classifies: [0, 1] pixels (n, c, h, w) -> logits (members, n, classes).

    A member that diverged is marked in `failed`, (members,) bool. `member` is one of them alone: pixels -> logits (n, classes).
    """

    @property
    def failed(self) -> Bool[Tensor, "members"]: ...

    def __call__(self, images: Images) -> Float[Tensor, "members n classes"]: ...

    def member(self, index: int) -> Callable[[Images], Float[Tensor, "n classes"]]: ...


@runtime_checkable
class Trainer(Protocol):
    """How members learn. Many at once, so that small models can be trained as one stack.

    Votes must be independent given the data: a member may depend on its own view, its own key, and on `common`, the stream of
    coins fixed for *all* members of a run, and on nothing else (not on the others in its stack).
    """

    stack_size: int
    start: Start

    def fit(self, views: Sequence[View], keys: Sequence[Key], common: Key) -> Stack: ...

    def describe(self) -> Json:
        """Everything that decides a member's weights, for the configuration digest."""
        ...


@runtime_checkable
class Scheme(Protocol):
    """How a defended classifier is made of members, and what their ballots prove."""

    @property
    def members(self) -> int: ...

    def view(self, data: Untrusted, member: int, key: Key) -> View: ...

    def aggregate(self, ballots: Ballots) -> Prediction: ...

    def certify(self, ballots: Ballots) -> Certificate | CountCertificate | Unproved: ...

    def describe(self) -> Json: ...


@runtime_checkable
class PreparesInputs(Protocol):
    """A scheme that changes test images before members see them; members of other schemes see them as they are.

    Attributes:
        inputs_per_member: whether every member has inputs of its own (noise); then test images are sealed. If not, `key` must not
            matter.
    """

    @property
    def inputs_per_member(self) -> bool: ...

    def inputs(self, images: Images | SealedInputs, rows: range, key: Key) -> Images:
        """What the member with this key sees instead of `images`, which are `rows` (from a multiple of `ROW_BLOCK`)."""
        ...


@runtime_checkable
class KeepsRankings(Protocol):
    """A scheme may say that its certificate needs each member's ranking of the classes, not the first choice alone."""

    keeps_rankings: bool


@runtime_checkable
class TrainsInGroups(Protocol):
    """A trainer that gains nothing from more than `together` members at once: so many are viewed, trained and polled at a time."""

    together: int


@runtime_checkable
class Filter(Protocol):
    """Which training images to keep, judged by a model's features of them and by their labels. `defenses.filtered` trains with it."""

    def __call__(self, features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], key: Key) -> Int64[Tensor, "kept"]:
        """
        Args:
            features: finite, one row for each image.
            key: decides the filter's random choices, if it makes any.
        Returns: row numbers, ascending.
        Raises: ValueError if the filter does not suit so few images.
        """
        ...

    def describe(self) -> Json: ...
