"""Which ports a container publishes after `corten port add` and `corten port rm`.  Pure.

A container keeps what was asked (HostConfig.PortBindings); what came of it are the publications of its endpoint, while
it runs.  A port that is taken away takes the words with it that asked for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from corten.engine.effective import UPDATE, Effective
from corten.errors import Conflict, InvalidArgument, NotFound
from corten.network.ports import parse_bindings
from corten.network.values import PortBinding, Publication
from corten.spec.docker import PortBinding as Words

Asked = dict[str, list[Words] | None]

_MANY: Final = 1 << 16  # of a container


def parsed(asked: Asked) -> tuple[PortBinding, ...]:
    """As they are taken.  Raises InvalidArgument."""
    pairs = {key: [(one.host_ip, one.host_port) for one in of or ()] or [("", "")] for key, of in asked.items()}
    return parse_bindings((), pairs)


def with_added(before: Effective, asked: Asked) -> Effective:
    """What it is with more ports; they are exposed as well.  Raises InvalidArgument, Conflict for what it has."""
    host, config = before.host, before.config
    known = {_normal(key): [*(of or ())] for key, of in (host.port_bindings or {}).items()}
    for key, of in asked.items():
        mine = known.setdefault(_normal(key), [])
        for one in of or [Words()]:
            if one in mine and one.host_port:
                raise Conflict(f"port {one.host_port} is published already for {_normal(key)}")
            mine.append(one)
    if sum(map(len, known.values())) > _MANY:
        raise InvalidArgument(f"more than {_MANY} ports are published")
    parsed({**known})
    exposed = {**(config.exposed_ports or {}), **{key: {} for key in known}}
    changed = replace(before, config=replace(config, exposed_ports=exposed))
    return _with(changed, {**known})


def without(before: Effective, asked: Asked, there: Sequence[Publication]) -> tuple[Effective, tuple[Publication, ...]]:
    """What it is without some ports, and which of those that are there go.

    A key without words means every binding of that port; words without a host's port mean every one on that address.
    Raises InvalidArgument, NotFound for what is not published.
    """
    known: Asked = {_normal(key): [*(of or [Words()])] for key, of in (before.host.port_bindings or {}).items()}
    gone: list[Publication] = []
    for key, of in asked.items():
        for wanted in parsed({key: of}):
            hit = [one for one in there if covers(wanted, one)]
            left = [one for one in there if one not in hit and one not in gone]
            if not _strike(known, wanted, hit, left):
                raise NotFound(f"no public port '{_told(wanted)}' is published")
            gone += (one for one in hit if one not in gone)
    return _with(before, {key: of for key, of in known.items() if of}), tuple(gone)


def _strike(known: Asked, wanted: PortBinding, hit: Sequence[Publication], left: Sequence[Publication]) -> bool:
    """Takes the words away that asked for `hit`; of several that may have, those that `left` has no need of."""
    key = f"{wanted.container_port}/{wanted.transport}"
    mine = known.get(key)
    if mine is None:  # asked for by -P
        return bool(hit)
    rest, free = [], list(left)
    for words in mine:
        (binding,) = parsed({key: [words]})
        asked_for = [one for one in free if covers(binding, one)]
        if asked_for:  # one number, on one address or on all
            free = [one for one in free if one not in asked_for or one.host_port != asked_for[0].host_port]
            rest.append(words)
        elif not (_is_asked(wanted, binding) or any(covers(binding, one) for one in hit)):
            rest.append(words)
    known[key] = rest
    return len(rest) < len(mine)


def covers(wanted: PortBinding, port: Publication) -> bool:
    """A published port is one that these words ask for."""
    is_it = (wanted.transport, wanted.container_port) == (port.transport, port.container_port)
    in_range = not wanted.first or wanted.first <= port.host_port <= wanted.last
    return is_it and in_range and wanted.host_ip in (None, port.host_ip)


def _is_asked(wanted: PortBinding, binding: PortBinding) -> bool:
    """The same of words that nothing has come of, as the container does not run."""
    in_range = not wanted.first or wanted.first <= binding.first <= binding.last <= wanted.last
    return in_range and wanted.host_ip in (None, binding.host_ip)


def _told(wanted: PortBinding) -> str:
    host = "" if wanted.host_ip is None else f"{wanted.host_ip}:"
    return f"{host}{wanted.first or ''}:{wanted.container_port}/{wanted.transport}".removeprefix(":")


def _normal(key: str) -> str:
    """`80/tcp` of `80` and of `080/TCP`."""
    (binding,) = parsed({key: None})
    return f"{binding.container_port}/{binding.transport}"


def _with(before: Effective, bindings: Asked) -> Effective:
    origins = before.origins | {"HostConfig.PortBindings": UPDATE}
    return replace(before, host=replace(before.host, port_bindings=bindings), origins=origins)
