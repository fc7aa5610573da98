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
    from typing import Any

    from corten.spec.process import Process
    from corten.spec.runtime import Config

    Origins = dict[str, list[dict[str, Any]]]

# of a profile of our own: with a machine's native architecture alone, libseccomp kills what runs in another mode
ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


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


def apply(config: Config, node: Node) -> Origins:
    """Completes `config` by the node's words; the values that were taken, with their origin."""
    origins: Origins = {}
    if config.process is not None:
        had = {limit.type for limit in config.process.rlimits}
        limits = [
            {"type": name, "soft": soft, "hard": hard, "origin": node.origin}
            for name, soft, hard in node.rlimits
            if RLIMITS.index(name) not in had
        ]
        if limits:
            origins["rlimits"] = limits
    paths = [path for path in node.masked_paths if path not in config.linux.masked_paths]
    if paths:
        origins["maskedPaths"] = [{"path": path, "origin": node.origin} for path in paths]
        config.linux.masked_paths = (*config.linux.masked_paths, *paths)
    rules = unnamed(config.linux.seccomp, node.seccomp)
    if rules:
        origins["seccomp"] = [{**rule, "origin": node.origin} for rule in rules]
    if config.process is not None:
        again(config, config.process, origins)
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
    rules = [{key: value for key, value in row.items() if key != "origin"} for row in origins.get("seccomp", ())]
    if rules:
        config.linux.seccomp = with_rules(config.linux.seccomp, rules)


def unnamed(profile: dict[str, Any] | None, rules: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The rules, for what `profile` does not name itself."""
    named = {name for rule in (profile or {}).get("syscalls") or () for name in rule.get("names") or ()}
    found = []
    for rule in rules:
        names = [name for name in rule["names"] if name not in named]
        if names:
            found.append({**rule, "names": names})
    return found


def with_rules(profile: dict[str, Any] | None, rules: list[dict[str, Any]]) -> dict[str, Any]:
    """`profile` and the rules behind its own; for a bundle without a profile one that allows the rest."""
    if profile is None:
        machine = posix.uname().machine
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ARCHITECTURES.get(machine, [])}
    return {**profile, "syscalls": [*(profile.get("syscalls") or ()), *rules]}


def describe(origins: Origins) -> list[str]:
    """A line for each value, for `corten-runtime plan`."""
    lines = [
        f"rlimit {row['type']} {row['soft']}:{row['hard']} ({row['origin']})" for row in origins.get("rlimits", ())
    ]
    lines += [f"masked path {row['path']} ({row['origin']})" for row in origins.get("maskedPaths", ())]
    lines += [
        f"seccomp {' '.join(row['names'])}: {row['action']} ({row['origin']})" for row in origins.get("seccomp", ())
    ]
    return lines
