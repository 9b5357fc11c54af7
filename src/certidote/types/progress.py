"""How long work tells how far it is."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Where long work reports to; silent by default. `note` is a figure worth showing beside the bar."""

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None: ...

    def advance(self, by: int = 1, note: str = "") -> None: ...

    def finish(self, note: str = "") -> None: ...


class Silent:
    """Progress for tests and notebooks: says nothing."""

    def start(self, stage: str, total: int, done: int = 0, unit: str = "models") -> None:
        pass

    def advance(self, by: int = 1, note: str = "") -> None:
        pass

    def finish(self, note: str = "") -> None:
        pass
