"""`--link` on the default bridge: the other's address in /etc/hosts, its ports and variables in the environment.

As dockerd does it (moby daemon/links, daemon/container_operations_unix.go), byte for byte.  A record keeps links as
`ID:alias`, so that a rename does not break them; inspect shows `/name:/own name/alias`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from corten.engine.container import Container, Roster
from corten.errors import CortenError, Internal, InvalidArgument, NotFound
from corten.network.values import PREDEFINED
from corten.spec.docker import HostConfig

SHORT_ID: Final = 12
_WITH_LINKS: Final = frozenset({"", "default", *PREDEFINED})
_NOT_LENT: Final = frozenset({"HOME", "PATH"})  # variables that are each container's own


@dataclass(frozen=True, slots=True)
class Link:
    """A running container under another name."""

    other: Container
    alias: str

    @property
    def address(self) -> str:
        """On the default bridge."""
        assert self.other.endpoint is not None
        return str(self.other.endpoint.ip)


def parse(text: str) -> tuple[str, str]:
    """(name, alias) of `name`, `name:alias` or inspect's `/name:/own name/alias`.  Raises Internal, as dockerd."""
    if not text:
        raise Internal("empty string specified for links")
    name, *rest = text.split(":")
    if len(rest) > 1:
        raise Internal(f"bad format for links: {text}")
    alias = rest[0] if rest else name
    if name.startswith("/") and rest:
        return name[1:], alias.rpartition("/")[2]
    return name, alias


def resolved(host: HostConfig, find: Callable[[str], Container]) -> list[str]:
    """The links of a request as a record keeps them; of one on networks of its own they are those of its endpoints.

    Raises InvalidArgument when one leads nowhere.
    """
    found: list[str] = []
    if not _has_links(host):
        return found
    for text in host.links or ():
        name, alias = parse(text)
        try:
            other = find(name)
        except CortenError as error:  # not NotFound: the CLI would take it for the image's and pull
            raise InvalidArgument(f"could not get container for {name}: {error.text}") from error
        if other.record.effective.network == "host":
            hint = "This would result in undefined behavior"
            raise InvalidArgument(f"conflicting options: host type networking can't be used with links. {hint}")
        found.append(f"{other.id}:{alias}")
    return found


def _has_links(host: HostConfig) -> bool:
    return host.network_mode in _WITH_LINKS or host.network_mode.startswith("container:")


def _others(container: Container, roster: Roster) -> Iterator[tuple[Container, str]]:
    """Linked containers that are still there."""
    if not _has_links(container.record.effective.host):
        return
    for text in container.record.effective.host.links or ():
        other_id, _, alias = text.partition(":")
        other = roster.get(other_id)
        if other is not None:
            yield other, alias


def shown(container: Container, roster: Roster) -> list[str] | None:
    """HostConfig.Links in inspect."""
    return [f"/{other.name}:/{container.name}/{alias}" for other, alias in _others(container, roster)] or None


def names(roster: Roster) -> dict[str, list[str]]:
    """Names that containers have by the links of others, by id: `/other/alias`."""
    found: dict[str, list[str]] = {}
    for parent in roster:
        if not parent.record.effective.host.links:
            continue
        for other, alias in _others(parent, roster):
            found.setdefault(other.id, []).append(f"/{parent.name}/{alias}")
    return found


def split(name: str, roster: Roster) -> tuple[Container, str]:
    """The container and the alias of `parent/alias`.  Raises Internal (dockerd answers 500), NotFound."""
    parent, slash, alias = name.removeprefix("/").rpartition("/")
    if not slash:
        raise Internal("Conflict, cannot remove the default link name of the container")
    try:
        return roster.find(parent), alias
    except NotFound as error:
        raise NotFound(f"No such container: {name}") from error


def without(host: HostConfig, alias: str) -> HostConfig:
    """HostConfig with one link less."""
    return replace(host, links=[text for text in host.links or () if text.partition(":")[2] != alias])


def live(container: Container, roster: Roster) -> list[Link]:
    """The links of a container that is being started.  Raises Internal when one is not running on the bridge."""
    found = []
    for other, alias in _others(container, roster):
        if not other.is_running:
            raise Internal(f"Cannot link to a non running container: /{other.name} AS /{container.name}/{alias}")
        if other.endpoint is None:
            raise Internal(f"Cannot link to /{other.name}, as it does not belong to the default network")
        found.append(Link(other, alias))
    return found


def up(container: Container, roster: Roster) -> list[Link]:
    """Those of its links that lead to a container with an address: it runs or is about to."""
    return [Link(other, alias) for other, alias in _others(container, roster) if other.endpoint is not None]


def parents(container: Container, roster: Roster) -> list[Container]:
    """Running containers with a link to this one."""
    return [
        parent
        for parent in roster
        if parent.record.effective.host.links  # few have any: who starts looks at all of them
        and parent.is_running
        and any(other is container for other, _ in _others(parent, roster))
    ]


# The texts.


def hosts(links: Iterable[Link]) -> list[tuple[str, str]]:
    """(names, address) of each line in /etc/hosts."""
    return [(_host_names(link), link.address) for link in links]


def _host_names(link: Link) -> str:
    words = [link.alias, link.other.id[:SHORT_ID]]
    return " ".join(words if link.alias == link.other.name else [*words, link.other.name])


def environment(container: Container, links: Iterable[Link]) -> list[str]:
    """The variables, link by link: ports, the name, what the other container was given."""
    return [line for link in links for line in _variables(container, link)]


def _variables(container: Container, link: Link) -> Iterator[str]:
    alias = link.alias.upper().replace("-", "_")
    config = link.other.record.effective.config
    ports = sorted(map(_port, config.exposed_ports or ()), key=lambda port: (port[0], port[1] != "tcp"))
    if ports:
        number, protocol = ports[0]
        yield f"{alias}_PORT={protocol}://{link.address}:{number}"
    yield from _ranges(alias, link.address, ports)
    for number, protocol in ports:
        name = f"{alias}_PORT_{number}_{protocol.upper()}"
        yield f"{name}={protocol}://{link.address}:{number}"
        yield f"{name}_ADDR={link.address}"
        yield f"{name}_PORT={number}"
        yield f"{name}_PROTO={protocol}"
    yield f"{alias}_NAME=/{container.name}/{link.alias}"
    for item in config.env or ():
        key, equals, value = item.partition("=")
        if equals and key not in _NOT_LENT:
            yield f"{alias}_ENV_{key}={value}"


def _port(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    return int(number), protocol or "tcp"


def _ranges(alias: str, address: str, ports: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Three and more ports in a row, as one."""
    at = 0
    while at < len(ports):
        end = _last_in_a_row(ports, at)
        (first, protocol), (last, other) = ports[at], ports[end]
        if end > at + 1:
            name = f"{alias}_PORT_{first}_{protocol.upper()}"
            yield f"{name}_START={protocol}://{address}:{first}"
            yield f"{name}_ADDR={address}"
            yield f"{name}_PROTO={protocol}"
            yield f"{name}_PORT_START={first}"
            yield f"{alias}_PORT_{first}_{other.upper()}_END={other}://{address}:{last}"
            yield f"{name}_PORT_END={last}"
            at = end
        at += 1


def _last_in_a_row(ports: Sequence[tuple[int, str]], at: int) -> int:
    """nextContiguous of dockerd: the index of the last port that follows without a gap."""
    value = ports[at][0]
    for index in range(at + 1, len(ports)):
        if ports[index][0] > value + 1:
            return index - 1
        value += 1
    return len(ports) - 1
