"""How a linear head is fitted to frozen features, as one value: the recipes of transfer learning."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from certidote.types import Json


class HeadRecipe(BaseModel):
    """Cross-entropy on features, from fresh weights, without augmentation. Hashable; round-trips through JSON.

    Attributes:
        epochs, batch_size: at least 1.
        learning_rate: above 0.
        decay_epochs: epochs from which on the learning rate is a tenth of what it was.
        momentum: of SGD (not Nesterov's), in [0, 1); None is Adam instead.
        weight_decay: L2 penalty on weights and biases, in [0, 1); for SGD only.
    Raises: ValueError (pydantic's) for an unknown field or a number out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 0.01
    decay_epochs: tuple[int, ...] = Field(default=(30, 45), strict=False)
    momentum: float | None = None
    weight_decay: float = 0.0

    @model_validator(mode="after")
    def _ranges(self) -> "HeadRecipe":
        if min(self.epochs, self.batch_size) < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"epochs={self.epochs}, batch_size={self.batch_size}, learning_rate={self.learning_rate}; all must be positive"
            )
        if self.momentum is None and self.weight_decay:
            raise ValueError(f"weight_decay={self.weight_decay} is for SGD; give its momentum too, or leave weight_decay out")
        if not (0 <= self.weight_decay < 1 and (self.momentum is None or 0 <= self.momentum < 1)):
            raise ValueError(f"momentum={self.momentum}, weight_decay={self.weight_decay}; give numbers of at least 0 and below 1")
        return self

    def to_json(self) -> Json:
        return self.model_dump(mode="json")

    @staticmethod
    def from_json(value: Json) -> "HeadRecipe":
        """Raises: ValueError, in one line, for an unknown field or a number out of range."""
        try:
            return HeadRecipe.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ValueError(f"head recipe: {name + ': ' if name else ''}{first['msg'].removeprefix('Value error, ')}") from None


HEAD_RECIPES: dict[str, HeadRecipe] = {
    "adam": HeadRecipe(),
    "benchmark": HeadRecipe(epochs=40, batch_size=128, learning_rate=0.01, decay_epochs=(30,), momentum=0.9, weight_decay=2e-4),
}
"""How victims of transfer learning are fitted. "adam": batch 64 is that of Convex Polytope (Zhu et al. 2019), its step of 0.1 suits pooled
features of a large network, 0.01 the flattened ones of a small one. "benchmark" has the numbers of the poisoning benchmark
(Schwarzschild et al. 2021, `poison_test.py`). Differs from it: images are not cropped and mirrored, so that features are computed once."""
