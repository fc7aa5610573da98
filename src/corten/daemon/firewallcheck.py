"""What the doctor says of the engine's nftables table: compared with the one that the records want, chain by chain.

The wanted one is written into a network namespace of its own, which goes at once, and listed there: nft writes rules
in another form than it reads them.  What the host has beyond that at the end of the forward chain is for bridges of
others, and is not looked at; elements of the maps, which are published ports, have findings of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Final

from corten.network import admission, device, firewall
from corten.network.defaults import Defaults
from corten.network.firewall import FAMILY, MAPS, Outside, table_name
from corten.network.values import DEFAULT_NETWORK, Network
from corten.sys import netns
from corten.sys.nft import Nft, NftError

_HOOK: Final = ("type", "hook", "prio", "policy")


def differences(engine_id: str, networks: Iterable[Network], settings: Defaults) -> list[str]:
    """What is not as it should be, one sentence each; [] also where libnftables is missing."""
    table = table_name(engine_id)
    bridges = [device.bridge_of(engine_id, one) for one in networks if _is_there(one, settings)]
    try:
        found = _listed(table)
        commands = firewall.ruleset(
            table, bridges, [], Outside(), mark=settings.mark, respects_host=settings.respects_host
        )
        wanted = _scratch(table, commands)
    except OSError:
        return []
    if found is None or wanted is None:
        return [f"nftables table {table}: it is gone"] if bridges else []
    return [
        f"nftables table {table}: {kind} {name} is not as it should be"
        for (kind, name), content in sorted(wanted.items())
        if not _is_of_ports(name) and not _agrees(name, found.get((kind, name), []), content)
    ]


def _is_there(network: Network, settings: Defaults) -> bool:
    """It has a bridge; where daemon.json wants none, the default network is a record without journal entry."""
    is_off = settings.has_no_bridge and network.name == DEFAULT_NETWORK and not network.journal
    return network.driver == device.BRIDGE and not is_off


def _is_of_ports(name: str) -> bool:
    return name in (*MAPS, *firewall.OPENED, *admission.ADMITTED) or name.removesuffix(admission.KEYS) in MAPS


def _agrees(name: str, found: Sequence[str], wanted: Sequence[str]) -> bool:
    return found[: len(wanted)] == wanted if name == "forward" else found == wanted


def _scratch(table: str, commands: str) -> dict[tuple[str, str], list[str]] | None:
    """What a ruleset looks like once it is in a kernel."""
    fd = netns.make()
    try:
        return netns.inside(fd, lambda: _listed(table, commands))
    finally:
        os.close(fd)


def _listed(table: str, commands: str = "") -> dict[tuple[str, str], list[str]] | None:
    """(kind, name): content of every chain and set in this thread's namespace; None where there is no such table."""
    with Nft() as nft:
        try:
            if commands:
                nft.run(commands)
            items = json.loads(nft.run(f"list table {FAMILY} {table}", json=True))["nftables"]
        except NftError:
            return None
    content: dict[tuple[str, str], list[str]] = {}
    for item in items:
        for kind, said in item.items():
            if kind == "chain":
                content[kind, said["name"]] = [
                    _text({key: said.get(key) for key in ("type", "hook", "prio", "policy")})
                ]
            elif kind == "rule":
                content["chain", said["chain"]].append(_text(said["expr"]))
            elif kind in ("set", "map"):
                content[kind, said["name"]] = sorted(_text(one) for one in said.get("elem", ()))
    return content


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
