"""The engine under test as the judge knows it: its paths, its network namespace and the names that it gives."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from support.engine import CortenEngine

_HEX = re.compile(r"[0-9a-f]{8,64}")
_CONTAINER = re.compile(r"(?<!sha256[:/])\b[0-9a-f]{64}\b")  # no digest: the same image is in other engines too


class Subject:
    """Tells what is the engine's by its name; it learns ids while the engine lives and keeps them after its end.

    `alone`: nobody else uses the machine, so everything new is the engine's.
    `stand_ins`: processes (pid and name) to be treated as the engine's own daemons.
    """

    def __init__(
        self,
        data_root: Path,
        exec_root: Path,
        *,
        folder: Path | None = None,
        netns: Path | None = None,
        log: Path | None = None,
        stand_ins: Mapping[int, str] | None = None,
        alone: bool = False,
    ) -> None:
        self.data_root = data_root
        self.exec_root = exec_root
        self.folder = folder
        self.netns = netns
        self.stand_ins = dict(stand_ins or {})
        self.alone = alone
        self._log = log
        self._log_offset = 0
        self._words = [str(data_root), str(exec_root), *([folder.name] if folder else [])]
        self._ids: set[str] = set()

    @classmethod
    def of(cls, engine: CortenEngine, *, stand_ins: Mapping[int, str] | None = None, alone: bool = False) -> Subject:
        """The engine of a test; it need not run."""
        return cls(
            engine.data_root,
            engine.exec_root,
            folder=engine.folder,
            netns=engine.netns.path,
            log=engine.log,
            stand_ins=stand_ins,
            alone=alone,
        )

    @property
    def netns_inode(self) -> int | None:
        """The engine's network namespace, while it has a name."""
        try:
            return self.netns.stat().st_ino if self.netns else None
        except FileNotFoundError:
            return None

    def names(self, text: str) -> bool:
        """Whether `text` has a path of the engine, its id, or the id of a container that it ever had."""
        if any(word in text for word in self._words):
            return True
        return any(token in self._ids for token in _HEX.findall(text))

    def learn(self) -> None:
        """Reads the engine's id and, from its log and the folder of its containers, their ids."""
        with suppress(FileNotFoundError):
            self._ids.add((self.data_root / "engine-id").read_text().strip())
        self._learn_containers([self._fresh_log()])

    def learn_from(self, names: Iterable[str]) -> None:
        """Takes container ids out of the names of files below the roots, content left out: others have it too."""
        self._learn_containers(name for name in names if name.startswith(("containers/", "tasks/")))

    def _learn_containers(self, texts: Iterable[str]) -> None:
        for text in texts:
            for token in _CONTAINER.findall(text):
                self._ids |= {token, token[:12]}

    def _fresh_log(self) -> str:
        try:
            with (self._log or Path(os.devnull)).open("rb") as stream:
                stream.seek(self._log_offset)
                data = stream.read()
        except FileNotFoundError:
            return ""
        self._log_offset += len(data)
        return data.decode(errors="replace")
