"""Names beside dockerd 26.1: the files of a container, and what 127.0.0.11 answers there, in the same world.

Not the same on purpose: a name of ours is not asked of a server for TXT, SRV and ANY (dockerd tells it all of them); a
question with EDNS gets an OPT record back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dns.rdatatype
import pytest

from support.asking import addresses, ask, name_of
from support.networld import World

Words = tuple[str, ...]
NETWORKS: dict[str, Words] = {
    "front": ("--subnet", "10.60.0.0/24"),
    "inner": ("--subnet", "10.62.0.0/24", "--internal"),
    "both": ("--subnet", "10.63.0.0/24", "--ipv6", "--subnet", "fd00:63::/64"),
}
ADDED: Words = ("--add-host", "up:host-gateway", "--add-host", "x:1.2.3.4")
OPTIONS: Words = ("--dns", "198.51.100.53", "--dns-search", "foo.test", "--dns-option", "ndots:2")
CONTAINERS: dict[str, Words] = {
    "plain": ("--network", "front", "--ip", "10.60.0.10", "-h", "plainhost"),
    "other": ("--network", "front", "--ip", "10.60.0.11", "--network-alias", "alias", "-h", "otherhost"),
    "chosen": ("--network", "front", "--ip", "10.60.0.12", "-h", "hh", "--domainname", "dd.ee", *OPTIONS),
    "added": (
        "--network",
        "front",
        "--ip",
        "10.60.0.13",
        "-h",
        "h",
        "--add-host",
        "up:host-gateway",
        "--add-host",
        "x:1.2.3.4",
    ),
    "inside": ("--network", "inner", "--ip", "10.62.0.10", "-h", "insidehost"),
    "dual": ("--network", "both", "--ip", "10.63.0.10", "--ip6", "fd00:63::10", "-h", "dualhost"),
    "default": ("-h", "defaulthost", *OPTIONS),
    "alone": ("--network", "none", "-h", "alonehost"),
}
HOSTS = (
    "nameserver 198.51.100.53\nsearch example.test\n",
    "nameserver 127.0.0.1\nnameserver 198.51.100.53\noptions ndots:1 timeout:3\nsortlist 1.2.3.0\n",
    "# nobody\n",
    "nameserver 2001:db8:2::53\n",
)
ASKED = (
    *(("plain", name, kind) for name in ("other", "ALIAS", "alias.front", "otherhost") for kind in ("A", "AAAA", "MX")),
    *(("plain", name, "A") for name in ("www.example.test", "nobody.example.test", "broken.example.test", "single")),
    *(("chosen", name, "A") for name in ("other", "single", "www.example.test")),
    *(("inside", name, kind) for name in ("inside", "other", "www.example.test") for kind in ("A", "AAAA")),
    *(("dual", "dual", kind) for kind in ("A", "AAAA")),
)
FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def both_of(host: str, look: Callable[[World], Any]) -> tuple[Any, Any]:
    """What two engines make of the same: Corten's, then dockerd's.  dockerd has a copy of the host's file."""
    found = []
    for name in ("corten", "dockerd"):
        with World() as world:
            world.resolv_conf.write_text(host)
            with getattr(world, name)():
                found.append(look(world))
    return found[0], found[1]


def files_of(world: World, names: tuple[str, ...]) -> dict[tuple[str, str], str]:
    engine = world.engine
    return {
        (name, path): engine.docker("exec", name, "cat", path, check=True).stdout for name in names for path in FILES
    }


def look(world: World) -> dict[str, Any]:
    for name, words in NETWORKS.items():
        world.engine.docker("network", "create", *words, name, check=True)
    for name, words in CONTAINERS.items():
        world.container(*words, name=name)
    found: dict[str, Any] = {"files": files_of(world, tuple(CONTAINERS))}
    if world.resolv_conf.read_text() == HOSTS[0]:
        found["answers"] = answers(world)
        found["moved"] = moved(world)
    return found


def answers(world: World) -> dict[Words, Any]:
    found: dict[Words, Any] = {}
    for asker, name, kind in ASKED:
        for by_tcp in (False, True):
            made = ask(world._containers[asker], name, kind, by_tcp=by_tcp)
            rows = sorted(f"{dns.rdatatype.to_text(row.rdtype)} {row.ttl} {one}" for row in made.answer for one in row)
            found[asker, name, kind, str(by_tcp)] = (made.flags & ~0x80, rows)  # RA: dockerd's SERVFAIL lacks it
    for address in ("10.60.0.11", "10.60.0.99", "203.0.113.4"):
        found["plain", address] = name_of(world._containers["plain"], address)
    return found


def moved(world: World) -> dict[str, Any]:
    """Connected and disconnected while it runs."""
    engine, found = world.engine, dict[str, Any]()
    engine.docker("network", "connect", "--ip", "10.60.0.20", "front", "default", check=True)
    node = world._containers["default"]
    found["connected"] = files_of(world, ("default",)), addresses(node, "other")
    engine.docker("network", "disconnect", "front", "default", check=True)
    found["disconnected"] = engine.docker("exec", "default", "cat", "/etc/resolv.conf", check=True).stdout
    found["gone"] = addresses(world._containers["plain"], "default")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS, ids=("server", "loopback", "none", "ipv6"))
def test_files_and_answers_are_dockerds(host: str) -> None:
    ours, theirs = both_of(host, look)
    different = []
    for part, wanted in theirs.items():
        for key, value in wanted.items():
            if ours[part][key] != value:
                different.append(f"{part}, {key}:\n{ours[part][key]}\nbut dockerd:\n{value}")
    assert not different, "\n".join(different)
