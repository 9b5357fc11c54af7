"""Where pages get records of one scale from, and how they link to them."""

import os
from dataclasses import dataclass
from pathlib import Path

from certidote.benchmark import records
from certidote.benchmark.cells import Cell
from certidote.benchmark.records import Kept
from certidote.benchmark.scales import Scale


@dataclass(frozen=True)
class Source:
    """
    Attributes:
        kept: folder of all records.
        page: folder of the page.
        scale: whose records.
    """

    kept: Path
    page: Path
    scale: Scale

    def read(self, cell: Cell) -> Kept | None:
        """The record of a cell, None if there is none. Raises: ValueError if it is damaged."""
        return records.read(records.folder_of(self.kept, self.scale, cell))

    def link(self, kept: Kept) -> str:
        """From the page to a record."""
        return Path(os.path.relpath(kept.folder / records.RECORD, self.page)).as_posix()
