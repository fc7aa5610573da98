"""connect and disconnect: what is refused, what is recorded, what other clients may do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from corten.engine.connections import Connections
from corten.engine.hostfiles import connected, disconnected
from corten.errors import Internal, InvalidArgument, NotFound, PermissionDenied, Unavailable
from corten.network.values import Endpoint, Network
from corten.spec.docker import EndpointSettings

from .conftest import Decide
from .lifestage import Stage

_NAMES = ("bridge", "host", "none", "n1", "n2")
_DRIVERS = {"host": "host", "none": "null"}


class Networks:
    """Some that are there."""

    def __init__(self) -> None:
        made = [Network(f"{name:0<64}", name, _DRIVERS.get(name, "bridge"), "") for name in _NAMES]
        self._by_name = {one.name: one for one in made}

    def named(self, name: str) -> Network | None:
        return self._by_name.get(name)

    sought = named

    def find(self, ref: str) -> Network:
        if ref not in self._by_name:
            raise NotFound(f"network {ref} not found")
        return self._by_name[ref]


Make = Callable[..., tuple[Stage, Connections]]


async def _nothing(*_: object) -> None:
    """No ports to lead anywhere."""


@pytest.fixture
async def make(decide: Decide, machine: Any, tmp_path: Path) -> Make:
    """A container, running or (by default) not, and the verbs."""

    def made(mode: str = "bridge", *, runs: bool = False) -> tuple[Stage, Connections]:
        stage = Stage(decide, machine, tmp_path, NetworkMode=mode)
        stage.parts.networks = Networks()
        stage.parts.bus = SimpleNamespace(publish=lambda event: stage.told.append(f"{event.type} {event.action}"))
        if not runs:
            stage.end()
        naming: Any = SimpleNamespace()
        publishing: Any = SimpleNamespace(settle=_nothing, follow=_nothing)
        return stage, Connections(stage.parts, stage.roster.find, naming, publishing)

    return made


def asked(stage: Stage) -> list[str]:
    return list(stage.container.record.effective.endpoints)


async def test_a_stopped_container_is_joined_in_its_record(make: Make) -> None:
    stage, verbs = make()
    await verbs.connect("n1", "n", EndpointSettings(aliases=["a"]))
    assert asked(stage) == ["bridge", "n1"]
    assert stage.told == []  # dockerd tells of it when it starts


async def test_what_a_stopped_container_asked_for_first_stays(make: Make) -> None:
    stage, verbs = make()
    await verbs.connect("n1", "n", EndpointSettings(aliases=["first"]))
    await verbs.connect("n1", "n", EndpointSettings(aliases=["second"]))
    assert stage.container.record.effective.endpoints["n1"].aliases == ["first"]


async def test_a_stopped_container_may_name_a_network_that_is_not_there(make: Make) -> None:
    stage, verbs = make()
    await verbs.connect("nope", "n", None)
    assert asked(stage) == ["bridge", "nope"]
    await verbs.disconnect("nope", "n")
    assert asked(stage) == ["bridge"]


async def test_a_container_that_was_taken_off_all_networks_is_on_none(make: Make) -> None:
    stage, verbs = make()
    await verbs.disconnect("bridge", "n")
    assert asked(stage) == []
    assert not stage.container.record.effective.asked_networks
    assert stage.told == ["network disconnect"]


async def test_one_that_is_not_on_a_network_cannot_leave_it(make: Make) -> None:
    _, verbs = make()
    for ref in ("n1", "nope"):
        with pytest.raises(Internal, match=f"is not connected to the network {ref}"):
            await verbs.disconnect(ref, "n", force=True)
    _, verbs = make(runs=True)
    with pytest.raises(Internal, match="is not connected to network n1"):
        await verbs.disconnect("n1", "n")
    with pytest.raises(NotFound, match="network nope not found"):
        await verbs.disconnect("nope", "n")
    with pytest.raises(Internal, match="is not connected to the network nope"):
        await verbs.disconnect("nope", "n", force=True)


@pytest.mark.parametrize(
    ("mode", "runs", "ref", "kind", "text"),
    [
        ("bridge", True, "bridge", PermissionDenied, "endpoint with name n already exists in network bridge"),
        ("bridge", True, "none", InvalidArgument, "in private \\(none\\) mode"),
        ("bridge", False, "host", InvalidArgument, "cannot be disconnected from host network or connected to host"),
        ("none", False, "n1", InvalidArgument, "in private \\(none\\) mode"),
        ("none", True, "host", InvalidArgument, "cannot be disconnected from host network or connected to host"),
        ("host", True, "host", PermissionDenied, "endpoint with name n already exists in network host"),
        ("host", False, "n1", InvalidArgument, "container sharing network namespace"),
        ("container:x", True, "host", InvalidArgument, "container sharing network namespace"),
        ("bridge", True, "nope", NotFound, "network nope not found"),
    ],
)
async def test_what_dockerd_refuses_is_refused(
    make: Make, mode: str, runs: bool, ref: str, kind: type[Exception], text: str
) -> None:
    stage, verbs = make(mode, runs=runs)
    before = asked(stage)
    with pytest.raises(kind, match=text):
        await verbs.connect(ref, "n", None)
    assert asked(stage) == before
    assert stage.told == []


async def test_a_running_container_does_not_leave_the_hosts_network(make: Make) -> None:
    _, verbs = make("host", runs=True)
    with pytest.raises(InvalidArgument, match="cannot be disconnected from host network"):
        await verbs.disconnect("host", "n")


async def test_a_container_that_was_removed_meanwhile_joins_nothing(make: Make) -> None:
    stage, verbs = make()
    async with stage.container.lock:
        joining = asyncio.ensure_future(verbs.connect("n1", "n", None))
        leaving = asyncio.ensure_future(verbs.disconnect("bridge", "n"))
        await asyncio.sleep(0)
        stage.roster.discard(stage.container)
    for one in (joining, leaving):
        with pytest.raises(NotFound, match="No such container: n"):
            await one
    assert asked(stage) == ["bridge"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("127.0.0.1\tlocalhost\n", "127.0.0.1\tlocalhost\n10.0.0.9\thh.dd.x hh\n"),
        ("no end", "no end\n10.0.0.9\thh.dd.x hh\n"),
        ("", "10.0.0.9\thh.dd.x hh\n"),
        ("\udcff\r\n", "\udcff\r\n10.0.0.9\thh.dd.x hh\n"),
    ],
)
async def test_own_lines_come_and_go_and_all_else_in_the_hosts_file_stays(
    make: Make, tmp_path: Path, before: str, after: str
) -> None:
    stage, _ = make()
    record, path = stage.container.record, tmp_path / "hosts"
    config = replace(record.effective.config, hostname="hh", domainname="dd.x")
    stage.container.record = replace(record, effective=replace(record.effective, config=config))
    path.write_bytes(before.encode(errors="surrogateescape"))

    connected(stage.container, str(path), [ip_address("10.0.0.9")])
    assert path.read_bytes() == after.encode(errors="surrogateescape")
    disconnected(stage.container, str(path), [ip_address("10.0.0.8")])
    assert path.read_bytes() == after.encode(errors="surrogateescape")
    disconnected(stage.container, str(path), [ip_address("10.0.0.9")])
    assert path.read_bytes().rstrip(b"\n") == before.encode(errors="surrogateescape").rstrip(b"\n")


async def test_a_hosts_file_that_a_container_made_huge_is_not_read(make: Make, tmp_path: Path) -> None:

    stage, _ = make()
    path = tmp_path / "hosts"
    connected(stage.container, str(path.with_name("gone")), [ip_address("10.0.0.9")])
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    connected(stage.container, str(path), [ip_address("10.0.0.9")])
    size = path.stat().st_size
    disconnected(stage.container, str(path), [ip_address("10.0.0.9")])
    assert path.stat().st_size == size


async def test_a_container_that_cannot_be_settled_keeps_nobody_from_being_served(make: Make) -> None:
    stage, verbs = make(runs=True)
    stage.container.endpoints["n1"] = Endpoint("e", stage.container.id, "n1", None, None, "", "")

    async def fail(*_: Any) -> None:
        raise Unavailable("shim does not respond")

    verbs._leave = fail  # type: ignore[method-assign, assignment]
    await verbs.settle(stage.container)
    assert "n1" in stage.container.endpoints


class Wires:
    """What is told to kernel, resolver and ports, in order."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.told: list[str] = []

    def connect(self, container: Any, one: Any, netns_fd: int) -> Endpoint:
        self.told.append(f"connect {one.network.name}")
        made = Endpoint("e", container.id, one.network.network_id, None, None, "", "")
        container.endpoints[one.network.name] = made
        self.add_addresses()
        return made

    def add_addresses(self) -> None:
        """Those of no lease."""

    def disconnect(self, container_id: str, network_id: str, **_: Any) -> None:
        self.told.append("disconnect")

    def lead_out(self, *_: Any) -> None:
        self.told.append("routes")

    def tell(self, container: Any, action: str, networks: Any) -> None:
        self.told.append(f"event {action}")

    async def follow(self, *_: Any) -> None:
        self.told.append("ports")

    async def connected(self, *_: Any) -> None:
        self.told.append("names")

    async def disconnected(self, *_: Any) -> None:
        self.told.append("no names")


@pytest.fixture
async def wires(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, Connections, Wires]:
    """A running container, and everything that a connection is made of."""
    stage, verbs = make(runs=True)
    wires: Any = Wires(stage.container)
    stage.parts.bridge = wires
    stage.parts.paths = lambda ident: SimpleNamespace(hosts=str(tmp_path / "hosts"))
    verbs._attachments = verbs._naming = verbs._publishing = wires
    monkeypatch.setattr(verbs, "_namespace", lambda container: nullcontext(7))
    return stage, verbs, wires


async def test_a_connect_is_recorded_when_all_of_it_is_there(wires: tuple[Stage, Connections, Wires]) -> None:
    stage, verbs, seen = wires
    await verbs.connect("n1", "n", None)
    assert seen.told == ["connect n1", "routes", "ports", "names", "event connect"]
    assert (asked(stage), stage.container.record.place.networks) == (["bridge", "n1"], {"n1": "e"})


@pytest.mark.parametrize("failing", ["add_addresses", "lead_out", "follow", "connected", "save"])
async def test_a_connect_that_fails_at_any_step_is_taken_back(
    wires: tuple[Stage, Connections, Wires], failing: str
) -> None:
    stage, verbs, seen = wires

    def fail(*_: Any) -> None:
        setattr(owner, failing, before)
        raise Unavailable("no space left on device")

    owner: Any = stage.parts if failing == "save" else seen
    before = getattr(owner, failing)
    setattr(owner, failing, fail)
    with pytest.raises(Unavailable):
        await verbs.connect("n1", "n", None)
    assert seen.told[-2:] == ["disconnect", "no names"]
    assert (asked(stage), stage.container.record.place.networks) == (["bridge"], {})
    assert stage.container.endpoints == {}


async def test_a_disconnect_that_cannot_be_recorded_changes_nothing(wires: tuple[Stage, Connections, Wires]) -> None:
    stage, verbs, seen = wires
    await verbs.connect("n1", "n", None)
    seen.told.clear()

    def fail(*_: Any) -> None:
        raise Unavailable("no space left on device")

    stage.parts.save = fail
    with pytest.raises(Unavailable):
        await verbs.disconnect("n1", "n")
    assert (asked(stage), seen.told) == (["bridge", "n1"], [])
