"""Capabilities and `--security-opt`: what a container's first process may do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from corten.engine import defaults
from corten.errors import Internal, InvalidArgument
from corten.spec.words import BOOLEANS

UNCONFINED: Final = "unconfined"


class Security(msgspec.Struct, frozen=True, kw_only=True):
    """`seccomp`: "" is the built-in profile, "unconfined", or the text of a profile."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""


def normalize_capabilities(names: Sequence[str], field: str) -> tuple[str, ...]:
    """`net_admin` and `NET_ADMIN` are CAP_NET_ADMIN; `ALL` stays.  Raises InvalidArgument naming the field."""
    out = []
    for name in names:
        upper = name.upper()
        if upper == "ALL":
            out.append("ALL")
            continue
        full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if full not in defaults.ALL_CAPABILITIES:
            raise InvalidArgument(f'invalid {field}: unknown capability: "{full}"')
        out.append(full)
    return tuple(out)


def capabilities(
    add: Sequence[str], drop: Sequence[str], *, privileged: bool, known: frozenset[str]
) -> tuple[str, ...]:
    """The container's capabilities in dockerd's order; `known` are those of the running kernel.

    ALL on one side, names on the other: `--cap-add ALL --cap-drop X` is all but X, and the reverse.
    """
    everything = tuple(cap for cap in defaults.ALL_CAPABILITIES if cap in known)
    if privileged:
        return everything
    adds, drops = normalize_capabilities(add, "CapAdd"), normalize_capabilities(drop, "CapDrop")
    if "ALL" in adds:
        base: tuple[str, ...] = everything
        adds = ()
    elif "ALL" in drops:
        base, drops = (), ()
    else:
        base = defaults.CAPABILITIES
    kept = [cap for cap in base if cap not in drops]
    return tuple(kept + [cap for cap in dict.fromkeys(adds) if cap not in kept])


def parse_security_opt(
    options: Sequence[str], *, privileged: bool, no_new_privileges: bool = False, seccomp: str = ""
) -> Security:
    """`--security-opt` over the node's `no_new_privileges` and `seccomp` (as in Security).

    What dockerd calls invalid gets its text (it answers 500)."""
    flag, own, apparmor = no_new_privileges, "", ""
    for option in options:
        if option == "no-new-privileges":
            flag = True
            continue
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        if not separator and option != "disable":
            raise Internal(f'invalid --security-opt 1: "{option}"')
        match key:
            case "no-new-privileges" if value in BOOLEANS:
                flag = BOOLEANS[value]
            case "seccomp":
                own = value
            case "apparmor":
                apparmor = value
            case "label" | "disable":
                pass  # of SELinux, which no container has here: dockerd takes any where the host has none
            case _:
                raise Internal(f'invalid --security-opt 2: "{option}"')
    chosen = own or (UNCONFINED if privileged else seccomp)
    return Security(
        no_new_privileges=flag, seccomp="" if chosen in ("builtin", "default") else chosen, apparmor=apparmor
    )
