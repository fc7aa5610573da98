"""A container's place in the resctrl file system: its class of service, and its monitoring group.

    <resctrl>/<closID or id>/schemata                 the limits
    <resctrl>/<closID or id>/tasks                    who has them
    <resctrl>/<closID or id>/mon_groups/<id>/tasks    who is counted apart

The closID `/` is the file system's own class, at its root.  A class that is there before is used as it is: then its
limits must be those of the configuration.  Removed is only what was made.  A class that has a closID stays, as with
runc, for others may have joined it, who would lose their limits without a word; but one that refused its first limits,
which nobody could use, goes at once.

Rules: runtime-spec config-linux.md, "IntelRdt"; Documentation/filesystems/resctrl.rst.
"""

from __future__ import annotations

import posix

from corten.errors import FailedPrecondition, Internal
from corten.spec.rdt import ROOT
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corten.runtime.launching import Creation
    from corten.runtime.state import State
    from corten.spec.rdt import IntelRdt


class Group:
    """The directories of one container."""

    def __init__(
        self, resctrl: str, rdt: IntelRdt, id: str, *, mkdir: Callable[[str, int], None] = posix.mkdir
    ) -> None:
        self.resctrl = resctrl
        self.rdt = rdt
        self._mkdir = mkdir
        self.directory = class_of(resctrl, rdt, id)
        self.monitor = f"{self.directory}/mon_groups/{id}" if rdt.monitored else ""

    def missing(self) -> list[str]:
        """What `make` will make and nobody else will use, in that order."""
        own = "" if self.rdt.closid else self.directory
        return [path for path in (own, self.monitor) if path and not files.is_directory(path)]

    def make(self, found: Callable[[str], None] = lambda _: None) -> None:
        """Makes what is missing, sets or compares the limits; raises FailedPrecondition, Internal.

        `found` is called with each directory that is there already, before anything is done with it.  A class whose
        limits are refused goes again, one with a closID as well: nobody could use it.
        """
        if self._make(self.directory, found):
            try:
                self.set(self.rdt.schemata)
            except Internal:
                _discard(self.directory)
                raise
        else:
            self._compare()
        if self.monitor:
            self._make(self.monitor, found)

    def set(self, lines: tuple[str, ...]) -> None:
        """New limits, all in one write."""
        if lines:
            self._write(f"{self.directory}/schemata", "".join(f"{line}\n" for line in lines))

    def join(self, pid: int) -> None:
        """The process, and what it will fork, is of this class."""
        for directory in filter(None, (self.directory, self.monitor)):
            self._write(f"{directory}/tasks", f"{pid}\n")

    def _make(self, directory: str, found: Callable[[str], None]) -> bool:
        if self.rdt.closid and not self.rdt.schemata and directory == self.directory:
            if not files.is_directory(directory):
                raise FailedPrecondition(
                    "clos dir not accessible (must be pre-created when l3CacheSchema and memBwSchema are empty):"
                    f" stat {directory}: no such file or directory"
                )
            return False
        try:
            self._mkdir(directory, 0o755)
        except FileExistsError:
            found(directory)
            return False
        except OSError as error:
            raise Internal(f"mkdir {directory}: {files.why(error)}{self._reason()}") from error
        return True

    def _write(self, path: str, text: str) -> None:
        try:
            files.write(path, text)
        except OSError as error:
            raise Internal(f"write {text.strip()!r} to {path}: {files.why(error)}{self._reason()}") from error

    def _reason(self) -> str:
        """The kernel's own sentence on what failed last, where it has one."""
        try:
            text = files.read_text(f"{self.resctrl}/info/last_cmd_status").strip()
        except OSError:
            return ""
        return "" if text in ("", "ok") else f" ({text})"

    def _compare(self) -> None:
        """Raises FailedPrecondition unless each limit of the configuration holds already."""
        if not self.rdt.schemata:
            return
        holds = parsed(files.read_text(f"{self.directory}/schemata").splitlines())
        for resource, domains in parsed(self.rdt.schemata).items():
            if not domains.items() <= holds.get(resource, {}).items():
                raise FailedPrecondition(
                    f"intelRdt: {self.directory} is there already, with other schemata of {resource} than config.json"
                )


def class_of(resctrl: str, rdt: IntelRdt, id: str) -> str:
    """The directory of the container's class."""
    return resctrl if rdt.closid == ROOT else f"{resctrl}/{rdt.closid or id}"


def run(making: Creation, pid: int) -> None:
    """Makes the container's class and puts `pid` into it; the record tells before what will have to be removed.

    What somebody else made in the meantime is his: it leaves the record.
    """

    def is_others(directory: str) -> None:
        if directory in state.rdt:
            state.rdt.remove(directory)
            state.save()

    state = making.state
    rdt = making.prepared.config.linux.intel_rdt
    if rdt is None:
        return
    group = Group(making.host.facts.resctrl, rdt, making.options.id)
    state.rdt = group.missing()
    state.save()
    group.make(is_others)
    group.join(pid)


def update(state: State, given: dict[str, str]) -> None:
    """New limits of a container's class, by the flags of `update`; raises FailedPrecondition where there is none."""
    from corten.runtime import hostfacts, limits

    resctrl = hostfacts.gather().resctrl
    for name, words in limits.RDT.items():
        if given[name] and not resctrl:
            raise FailedPrecondition(words)
    config = state.config()
    if config.linux.intel_rdt is None:
        raise FailedPrecondition("the container has no intelRdt in its config.json, so no class of its own to update")
    Group(resctrl, config.linux.intel_rdt, state.id).set(tuple(filter(None, given.values())))


def leave(state: State) -> None:
    """Removes what was made for a container; again after a crash in the middle."""
    remove(state.rdt)


def remove(made: list[str]) -> None:
    """Removes directories, last made first."""
    for directory in reversed(made):
        try:
            posix.rmdir(directory)
        except FileNotFoundError:
            continue


def _discard(directory: str) -> None:
    """Removes a directory, if it can be: what failed before is told."""
    try:
        posix.rmdir(directory)
    except OSError:
        return


def parsed(lines: tuple[str, ...] | list[str]) -> dict[str, dict[str, str]]:
    """Lines of a schemata file as values: `L3:0=00f;1=0ff` is {'L3': {'0': 'f', '1': 'ff'}}."""
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        resource, _, rest = line.strip().partition(":")
        domains = (pair.partition("=") for pair in rest.split(";") if pair)
        found.setdefault(resource.strip(), {}).update(
            {name.strip(): value.strip().lower().lstrip("0") or "0" for name, _, value in domains}
        )
    return found
