"""Files: all below the two roots, what stands beside them, names elsewhere that could be the engine's, and keyrings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from support.leaks.facts import Fact, Facts
from support.leaks.processes import text
from support.leaks.subject import Subject

DATA = "under data-root"
EXEC = "under exec-root"
BESIDE = "beside the roots"
ELSEWHERE = "elsewhere"
PUBLIC = ("/run", "/run/*", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/var/lib", "/var/log", "/var/cache", "/etc")


def read(subject: Subject) -> Facts:
    """Names only: a file that grows (the log, the database) is the same file."""
    facts = Facts()
    for place, root in ((DATA, subject.data_root), (EXEC, subject.exec_root)):
        for name in _below(root):
            facts.add(Fact("file", place, name), ours=True)
    if subject.folder is not None and subject.folder.is_dir():
        for name in sorted(os.listdir(subject.folder)):
            facts.add(Fact("file", BESIDE, name), ours=True)
    for name in _public():
        facts.add(Fact("file", ELSEWHERE, name))
    return facts


def keyrings() -> Facts:
    """Keyrings that this process may see: proc_keys(5)."""
    facts = Facts()
    for line in text("/proc/keys").splitlines():
        fields = line.split(maxsplit=8)
        if len(fields) == 9 and fields[7] == "keyring":
            facts.add(Fact("keyring", f"uid {fields[5]}", fields[8].partition(":")[0]))
    return facts


def _below(root: Path) -> Iterator[str]:
    """The root itself, then everything in it; directories end with a slash."""
    if not root.exists():
        return
    yield "./"
    for base, folders, names in os.walk(root):
        prefix = os.path.relpath(base, root)
        for name in folders:
            yield f"{os.path.normpath(os.path.join(prefix, name))}/"
        for name in names:
            yield os.path.normpath(os.path.join(prefix, name))


def _public() -> Iterator[str]:
    for pattern in PUBLIC:
        for folder in Path("/").glob(pattern.removeprefix("/")) if "*" in pattern else (Path(pattern),):
            if folder.is_dir() and not folder.is_symlink():
                yield from (f"{folder}/{name}" for name in os.listdir(folder))
