"""Launchers with one defence taken out, for the twins of attacks: what they do not stop must then succeed.

The sources of the launcher are copied, edited by exact replacement and built: the shipped program has no switch that
turns a defence off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from corten.launch import spawn
from corten.launch.execops import Seccomp
from corten.launch.ops import Clone, Plan, SetDumpable, Setns
from corten.launch.spawn import Launcher
from corten.launch.userops import SetCaps
from support import paths

Edit = tuple[str, str, str]  # file, text, its replacement

# paths of a container resolved as a naive runtime does: joined to the root, every link followed
FOLLOW_LINKS: tuple[Edit, ...] = (
    ("path.c", ".resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve,", ".resolve = 0,"),
    (
        "path.c",
        "int open_in_root(int root_fd, const char *path, u64 flags, u64 resolve) {",
        "int open_in_root(int root_fd, const char *path, u64 flags, u64 resolve) { while (*path == '/') path++;",
    ),
)
# magic links followed as far as the kernel lets a path that is resolved beneath a root: no step
FOLLOW_MAGIC_LINKS: tuple[Edit, ...] = (
    ("path.c", "RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve", "RESOLVE_IN_ROOT | resolve"),
)
# whatever a link leads onto /proc is mounted there
UNCHECKED_PROC: tuple[Edit, ...] = (
    ("ops_mount.c", "target_fd : check_proc(l, root_fd, path, target_fd, fd);", "target_fd : 0;"),
)
# the working directory taken as it is (CVE-2024-21626)
UNCHECKED_CWD: tuple[Edit, ...] = (("ops_user.c", "return r < 0 ? r : check_inside(l);", "return r;"),)


def edit(folder: Path, edits: Sequence[Edit]) -> None:
    """Replaces texts in files below a folder; fails when one is not there exactly once."""
    for name, old, new in edits:
        text = (folder / name).read_text()
        assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
        (folder / name).write_text(text.replace(old, new))


def make_launcher(folder: Path, edits: Sequence[Edit], out: Path) -> None:
    """Builds `out` from a copy of the launcher's sources below `folder`, without what `edits` take out."""
    source = folder / "launcher"
    shutil.copytree(paths.REPOSITORY / "launcher", source)
    edit(source, edits)
    # an edit may leave a function without a caller, and looks odd
    flags = "CFLAGS=-Os -Wno-unused-function -Wno-misleading-indentation"
    subprocess.run(["make", "-s", "-C", source, f"OUT={out}", flags, str(out)], check=True)


@contextmanager
def launcher(edits: Sequence[Edit]) -> Iterator[Launcher]:
    """A launcher without the defence that `edits` take out; fails when a text to replace is not there once."""
    folder = paths.scratch("weakened")
    try:
        out = folder / "corten-launch"
        make_launcher(folder, edits, out)
        made = Launcher(str(out))
        try:
            yield made
        finally:
            os.close(made.fd)
    finally:
        shutil.rmtree(folder)


def cloned_first(plan: Plan) -> Plan:
    """The plan of an exec in the order that it had before: the child does everything, the filter comes last."""
    ops = list(plan.ops)
    clone = next(i for i, op in enumerate(ops) if isinstance(op, Clone))
    entered = next(i for i, op in enumerate(ops) if isinstance(op, Setns)) + 1
    filters = [Seccomp(op.filter, op.flags) for op in ops if isinstance(op, Seccomp)]
    admin = next(i for i, op in enumerate(ops) if isinstance(op, SetCaps))
    prepared = [op for i, op in enumerate(ops[:clone]) if i >= entered and not isinstance(op, SetDumpable | Seccomp)]
    prepared = [op for op in prepared if not isinstance(op, SetCaps) or op is ops[admin]]
    child = [op for op in ops[clone + 1 : -1] if not isinstance(op, Seccomp)]
    return Plan((*ops[:entered], Clone(0), *prepared, *child, *filters, ops[-1]), plan.inputs, plan.preserve_fds)


def filtered_last(plan: Plan) -> Plan:
    """The plan of an init as it was before: it waits for its start with what seccomp(2) wants, and not filtered."""
    ops = list(plan.ops)
    (at,) = [i for i, op in enumerate(ops) if isinstance(op, Seccomp)]
    filter, caps = ops[at : at + 2]
    assert isinstance(filter, Seccomp)
    assert isinstance(caps, SetCaps)
    last = Seccomp(filter.filter, filter.flags)
    return Plan((*ops[:at], *ops[at + 2 : -1], last, ops[-1]), plan.inputs, plan.preserve_fds)


@contextmanager
def unsealed(folder: Path) -> Iterator[tuple[Launcher, Path]]:
    """A launcher that runs from an ordinary file, as runc did before CVE-2019-5736, and that file."""
    copy = folder / "corten-launch-copy"
    shutil.copy(spawn.launcher_path(), copy)
    made = Launcher()
    kept, spawn.sealed_copy = spawn.sealed_copy, lambda program_fd: os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield made, copy
    finally:
        spawn.sealed_copy = kept
        os.close(made.fd)
        copy.unlink()
