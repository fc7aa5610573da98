"""What a node says where a bundle is silent, merged into the configuration; every value keeps its origin.  Pure.

    rlimits       a limit for every type that the process does not set itself
    masked paths  added to `linux.maskedPaths`
    seccomp       rules for system calls that the bundle's profile names nowhere; a bundle without a profile gets one
                  that allows everything else

The origins are values that JSON can hold: they stand in state.json, `state` prints them, and an exec in the container
gets the same rules from there, whatever the node's file says by then.
"""

from __future__ import annotations

import posix

from corten.spec.process import RLIMITS, Rlimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from corten.spec.process import Process
    from corten.spec.runtime import Config

    Origins = dict[str, list[dict[str, Any]]]

# of a profile of our own: with a machine's native architecture alone, libseccomp kills what runs in another mode
ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}

# what 32-bit programs (i386, s390, PowerPC, MIPS) call by socketcall(2), and by ipc(2) with these numbers, linux/ipc.h
SOCKET_CALLS = (
    *("accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recv", "recvfrom"),
    *("recvmmsg", "recvmsg", "send", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socket", "socketpair"),
)
IPC_CALLS = {
    **{"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4},
    **{"msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14},
    **{"shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24},
}
DOORS = {"socketcall": frozenset(SOCKET_CALLS), "ipc": frozenset(IPC_CALLS)}
IPC_NUMBER_MASK = 0xFFFF  # the kernel takes a version from the bits above
# beside such a call 32-bit programs alone have one that does the same, with 64 bits of time or without an address
TWINS = {
    **{"recvmmsg": "recvmmsg_time64", "semtimedop": "semtimedop_time64"},
    **{"recvfrom": "recv", "sendto": "send"},
}

TITLES = {"rlimits": "rlimit", "maskedPaths": "masked path", "seccomp": "seccomp"}


class Node:
    """The node's words, as `corten.runtime.defaults` read them.

    rlimits        (name, soft, hard)
    masked_paths   absolute paths
    seccomp        rules in the form of runtime-spec's `linux.seccomp.syscalls`
    origin         who said so
    """

    __slots__ = ("masked_paths", "origin", "rlimits", "seccomp")

    def __init__(
        self,
        origin: str = "",
        *,
        rlimits: tuple[tuple[str, int, int], ...] = (),
        masked_paths: tuple[str, ...] = (),
        seccomp: tuple[dict[str, Any], ...] = (),
    ) -> None:
        self.origin = origin
        self.rlimits = rlimits
        self.masked_paths = masked_paths
        self.seccomp = seccomp


def taken(
    node: Node,
    *,
    limits: Collection[str] | None,
    masked_paths: Collection[str] | None,
    calls: Collection[str] | None,
) -> Origins:
    """What is taken of the node's words beside what a container has already, each value with its origin.

    The names of its limits, its masked paths, the system calls that its profile names; None of a kind takes none of it.
    """
    origins: Origins = {}
    if limits is not None:
        origins["rlimits"] = [
            {"type": name, "soft": soft, "hard": hard, "origin": node.origin}
            for name, soft, hard in node.rlimits
            if name not in limits
        ]
    if masked_paths is not None:
        origins["maskedPaths"] = [
            {"path": path, "origin": node.origin} for path in node.masked_paths if path not in masked_paths
        ]
    if calls is not None:
        origins["seccomp"] = [{**rule, "origin": node.origin} for rule in unnamed(calls, node.seccomp)]
    return {word: rows for word, rows in origins.items() if rows}


def apply(config: Config, node: Node) -> Origins:
    """Completes `config` by the node's words; the values that were taken, with their origin."""
    process, linux = config.process, config.linux
    origins = taken(
        node,
        limits=None if process is None else {RLIMITS[limit.type] for limit in process.rlimits},
        masked_paths=linux.masked_paths,
        calls=named(linux.seccomp),
    )
    linux.masked_paths = (*linux.masked_paths, *masked(origins))
    if process is not None:
        again(config, process, origins)
    return origins


def again(config: Config, process: Process, origins: Origins) -> None:
    """Gives a process of a container, the init or an exec, what was taken from the node when it was created."""
    had = {limit.type for limit in process.rlimits}
    added = [
        Rlimit(RLIMITS.index(row["type"]), row["soft"], row["hard"])
        for row in origins.get("rlimits", ())
        if RLIMITS.index(row["type"]) not in had
    ]
    process.rlimits = (*process.rlimits, *added)
    added_rules = rules(origins)
    if added_rules:
        config.linux.seccomp = with_rules(config.linux.seccomp, added_rules)


def masked(origins: Origins) -> list[str]:
    """The paths among what was taken."""
    return [row["path"] for row in origins.get("maskedPaths", ())]


def rules(origins: Origins) -> list[dict[str, Any]]:
    """The rules among what was taken, in the form of runtime-spec's `linux.seccomp.syscalls`."""
    return [{key: value for key, value in row.items() if key != "origin"} for row in origins.get("seccomp", ())]


def named(profile: dict[str, Any] | None) -> set[str]:
    """The system calls that a profile has rules for."""
    return {name for rule in (profile or {}).get("syscalls") or () for name in rule.get("names") or ()}


def unnamed(calls: Collection[str], node_rules: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The rules, for system calls that are not among `calls`."""
    found = []
    for rule in node_rules:
        names = [name for name in rule["names"] if name not in calls]
        if names:
            found.append({**rule, "names": names})
    return found


def with_rules(profile: dict[str, Any] | None, added: list[dict[str, Any]]) -> dict[str, Any]:
    """`profile` and the rules behind its own; for a bundle without a profile one that allows the rest."""
    if profile is None:
        machine = posix.uname().machine
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ARCHITECTURES.get(machine, [])}
    more = [*_of_twins(profile, added), *of_any_version(added)]
    return {**profile, "syscalls": [*(profile.get("syscalls") or ()), *added, *more]}


def twins(calls: Collection[str]) -> set[str]:
    """What 32-bit programs have beside these calls, to the same end."""
    return {TWINS[name] for name in calls if name in TWINS}


def _of_twins(profile: dict[str, Any], added: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules once more, for the twins of their calls that nobody names."""
    said = named(profile) | named({"syscalls": added})
    return [{**rule, "names": names} for rule in added if (names := sorted(twins(rule["names"]) - said))]


def of_any_version(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules for SysV IPC once more, for ipc(2) with any version: libseccomp compares the number whole."""
    return [
        {
            **rule,
            "names": ["ipc"],
            "args": [{"index": 0, "value": IPC_NUMBER_MASK, "valueTwo": IPC_CALLS[name], "op": "SCMP_CMP_MASKED_EQ"}],
        }
        for rule in rules
        for name in rule["names"]
        if name in IPC_CALLS and not rule.get("args")
    ]


def lines(origins: Origins) -> list[tuple[str, str, str]]:
    """(word of `state`, value as text, origin) for each value."""
    found = [
        ("rlimits", f"{row['type']} {row['soft']}:{row['hard']}", row["origin"]) for row in origins.get("rlimits", ())
    ]
    found += [("maskedPaths", row["path"], row["origin"]) for row in origins.get("maskedPaths", ())]
    found += [
        ("seccomp", f"{' '.join(row['names'])}: {row['action']}", row["origin"]) for row in origins.get("seccomp", ())
    ]
    return found


def describe(origins: Origins) -> list[str]:
    """A line for each value, for `corten-runtime plan`."""
    return [f"{TITLES[word]} {text} ({origin})" for word, text, origin in lines(origins)]
