"""An engine whose disk may fill up without anybody else's."""

from __future__ import annotations

from collections.abc import Sequence

from support.engine import CortenEngine
from support.loopdisk import LoopDisk


class SmallEngine(CortenEngine):
    """With its data root on a disk of its own."""

    def __init__(self, disk: LoopDisk) -> None:
        self.disk = disk
        super().__init__()

    def start(self, prefix: Sequence[str] = ()) -> None:
        """On that disk."""
        self.data_root = self.disk.path / "root"
        super().start(prefix)
