"""The resolver is told everything first, then each change, and everything again when it is lost."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from types import SimpleNamespace
from typing import Any

import pytest

from corten.engine.attachments import Attachment
from corten.engine.naming import Naming, links_of, names_of
from corten.errors import Internal, Unavailable
from corten.spec.docker import EndpointSettings


class FakeResolver:
    """What cortend's side sees of it.  `fail` is called before each request and may raise."""

    def __init__(self) -> None:
        self.is_open = False
        self.serves: set[str] = set()
        self.told: list[tuple[str, Any]] = []
        self.opened = 0
        self.fail: Callable[[str], None] = lambda op: None

    def is_there(self) -> bool:
        return bool(self.serves)

    async def open(self) -> frozenset[str]:
        self.opened += 1
        self.is_open = True
        return frozenset(self.serves)

    async def tell(self, op: str, *fds: int, **fields: Any) -> None:
        await asyncio.sleep(0)
        self.fail(op)
        self.told.append((op, fields))
        if op == "serve":
            self.serves.add(fields["container"])
        if op == "forget":
            self.serves.discard(fields["container"])

    def die(self) -> None:
        self.is_open = False
        self.serves.clear()

    @property
    def ops(self) -> list[str]:
        return [op for op, _ in self.told]


NETWORK = SimpleNamespace(network_id="n1", name="front", driver="bridge", internal=False)


def container(id: str, name: str, *addresses: str) -> Any:
    config = SimpleNamespace(hostname=f"{name}-host")
    effective = SimpleNamespace(config=config, host=SimpleNamespace(dns=(), dns_search=(), dns_options=()))
    endpoint = SimpleNamespace(addresses=[ip_interface(one) for one in addresses])
    record = SimpleNamespace(effective=effective, state=SimpleNamespace(shim_pid=os.getpid()))
    return SimpleNamespace(id=id * 64, name=name, is_running=True, record=record, endpoints={"front": endpoint})


class Lab:
    def __init__(self) -> None:
        self.roster: list[Any] = []
        self.resolver = FakeResolver()
        settings = SimpleNamespace(dns=(), dns_search=(), dns_opts=())
        self.naming = Naming(SimpleNamespace(roster=self.roster, settings=settings), self.resolver)  # type: ignore[arg-type]
        self.attached = (Attachment(NETWORK, EndpointSettings()),)  # type: ignore[arg-type]
        self.naming._attachments = SimpleNamespace(wanted=lambda effective: self.attached)  # type: ignore[assignment]

    async def begin(self, one: Any) -> None:
        """A start, up to the moment in which it runs."""
        self.roster.append(one)
        one.is_running = False
        fd = os.open("/dev/null", os.O_RDONLY)
        try:
            await self.naming.begin(one, self.attached, fd)
        finally:
            os.close(fd)
        one.is_running = True
        self.naming.started(one)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    def sockets(container: Any) -> tuple[socket.socket, socket.socket]:
        return socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)

    made = Lab()
    monkeypatch.setattr(made.naming, "_sockets", sockets)
    yield made
    assert made.naming._starting == {}, "descriptors are left"


async def test_without_names_nobody_is_told_and_no_resolver_is_made(lab: Lab) -> None:
    await lab.naming.restore()
    await lab.naming.end(container("a", "web"))
    assert (lab.resolver.opened, lab.resolver.told) == (0, [])


async def test_the_first_container_makes_a_resolver_and_is_served_once(lab: Lab) -> None:
    one = container("a", "web", "10.0.0.2/24")
    await lab.begin(one)
    assert lab.resolver.ops.count("serve") == 1
    assert lab.resolver.serves == {one.id}
    second = container("b", "db", "10.0.0.3/24")
    await lab.begin(second)
    assert lab.resolver.opened == 1
    op, fields = lab.resolver.told[-1]
    assert (op, fields["way_out"], fields["servers"], fields["ipv6"]) == ("serve", True, None, False)
    assert fields["joins"] == [
        {
            "network": "n1",
            "name": "front",
            "container": second.id,
            "names": ["db", "b" * 12, "db-host"],
            "addresses": ["10.0.0.3"],
        }
    ]


async def test_a_lost_resolver_is_followed_by_one_that_is_told_everything(lab: Lab) -> None:
    one = container("a", "web", "10.0.0.2/24")
    await lab.begin(one)
    lab.resolver.die()
    lab.naming.lost()
    lab.resolver.told.clear()
    await lab.naming.restore()
    assert lab.resolver.ops == ["table", "serve"]
    (row,) = lab.resolver.told[0][1]["networks"]
    assert (row["id"], row["name"], [one["names"][0] for one in row["members"]]) == ("n1", "front", ["web"])


async def test_a_container_that_starts_while_everything_is_told_is_served(lab: Lab) -> None:
    for number in range(5):
        await lab.begin(container(str(number), f"c{number}", "10.0.0.2/24"))
    lab.resolver.die()
    lab.naming.lost()
    late = container("z", "late", "10.0.0.9/24")
    await asyncio.gather(lab.naming.restore(), lab.begin(late))
    assert len(lab.resolver.serves) == 6
    assert lab.resolver.ops.count("table") == 2  # of the first one and of the second one


async def test_a_resolver_that_dies_under_a_start_is_followed_within_it(lab: Lab) -> None:
    await lab.begin(container("a", "web", "10.0.0.2/24"))
    failures = [Unavailable("gone")]

    def fail(op: str) -> None:
        if op == "serve" and failures:
            lab.resolver.die()
            raise failures.pop()

    lab.resolver.fail = fail
    late = container("b", "db", "10.0.0.3/24")
    await lab.begin(late)
    assert len(lab.resolver.serves) == 2


async def test_the_end_during_everything_is_told_is_told_after_it(lab: Lab) -> None:
    one = container("a", "web", "10.0.0.2/24")
    await lab.begin(one)
    lab.resolver.die()
    lab.naming.lost()

    async def end() -> None:
        await asyncio.sleep(0)
        await lab.naming.end(one)

    await asyncio.gather(lab.naming.restore(), end())
    assert lab.resolver.serves == set()


async def test_a_start_that_fails_leaves_nothing(lab: Lab) -> None:
    await lab.begin(container("a", "web", "10.0.0.2/24"))

    def fail(op: str) -> None:
        if op == "serve":
            raise Internal("no sockets")

    lab.resolver.fail = fail
    late = container("b", "db", "10.0.0.3/24")
    with pytest.raises(Internal):
        await lab.begin(late)
    await lab.naming.end(late)
    assert lab.resolver.told[-1] == ("forget", {"container": late.id})


async def test_after_a_start_of_cortend_the_served_are_told_and_strangers_forgotten(lab: Lab) -> None:
    one = container("a", "web", "10.0.0.2/24")
    lab.roster.append(one)
    lab.resolver.serves = {one.id, "stranger"}
    await lab.naming.restore()
    assert lab.resolver.ops == ["table", "view", "forget"]
    assert lab.resolver.told[-1][1] == {"container": "stranger"}
    assert lab.resolver.serves == {one.id}


async def test_one_container_that_cannot_be_served_does_not_keep_others_from_it(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = container("a", "bad", "10.0.0.2/24"), container("b", "good", "10.0.0.3/24")
    lab.roster += [bad, good]
    failures = [Internal("its shim is gone")]

    def fail(op: str) -> None:
        if op == "serve" and failures:
            raise failures.pop()

    lab.resolver.fail = fail
    await lab.naming.restore()
    assert lab.resolver.serves == {good.id}
    assert "its shim is gone" in caplog.text


async def test_a_new_name_is_told_with_the_view(lab: Lab) -> None:
    one = container("a", "web", "10.0.0.2/24")
    await lab.begin(one)
    one.name = "other"
    await lab.naming.renamed(one)
    op, fields = lab.resolver.told[-1]
    assert (op, fields["joins"][0]["names"][0]) == ("view", "other")


def test_names_are_its_own_then_aliases_id_and_hostname_each_once() -> None:
    one = container("a", "web", "10.0.0.2/24")
    attached = Attachment(NETWORK, EndpointSettings(aliases=["www", "web"]))  # type: ignore[arg-type]
    assert names_of(one, attached) == ["web", "www", "a" * 12, "web-host"]


def test_links_are_aliases_of_names() -> None:
    attached = Attachment(NETWORK, EndpointSettings(links=["database:db", "cache"]))  # type: ignore[arg-type]
    assert links_of([attached]) == {"db": "database", "cache": "cache"}
