"""Networks made, joined, left and removed while cortend is killed, and by several clients at once.

kill -9 of cortend at its writes and messages; and clients that change a network and a container at the same time: every
answer is one that dockerd gives, and nothing is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from clients.api import Api
from faults.test_kill_cortend import LIFE_TIMEOUT_S, Group, NamedCalls, Writes, campaign, whole_life
from faults.test_races import Asked, zygote_of
from support import images
from support.engine import CortenEngine
from support.leaks import Snapshot, Subject, expect_none
from support.networklife import NetworkLife, inside
from support.process import wait_for

GATE_SAMPLE = 2
GATE_ROUNDS, SLOW_ROUNDS = 3, 200
GROUPS: tuple[Group, ...] = (
    Writes("cortend, journal writes for networks", life=NetworkLife),
    NamedCalls(
        "cortend, messages to shims, zygote and resolver for networks",
        r"(send|receive) (?!.*\bping$)",
        life=NetworkLife,
    ),
)


@pytest.fixture(scope="module")
def warm() -> Iterator[CortenEngine]:
    """An engine that has seen a whole life of networks."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        whole_life(engine, kind=NetworkLife)
        yield engine


@pytest.mark.timeout(240)
def test_cortend_killed_at_a_sample_of_its_writes(warm: CortenEngine) -> None:
    campaign(warm, GROUPS[0], GATE_SAMPLE)


@pytest.mark.slow
@pytest.mark.timeout(LIFE_TIMEOUT_S)
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_cortend_killed_at_every_point(warm: CortenEngine, group: Group) -> None:
    campaign(warm, group, None)


# Several clients at once.


@contextmanager
def networks(api: Api, *names: str) -> Iterator[None]:
    """Made, and removed at the end."""
    for name in names:
        api.ok("POST", "/networks/create", {"Name": name})
    make(api, "first", names[0])  # a resolver whose cortend was killed has ended: from here on there is one
    api.ok("POST", "/containers/first/start")
    api.ok("DELETE", "/containers/first?force=1")
    yield
    for name in names:
        api.ok("DELETE", f"/networks/{name}")


def make(api: Api, name: str, network: str) -> None:
    """A container that is not started."""
    body = {"Image": images.BUSYBOX_REF, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": network}}
    api.ok("POST", f"/containers/create?name={name}", body)


def links(engine: CortenEngine) -> list[Any]:
    """The host's ends of containers' interfaces."""
    argv = [*engine.netns.enter, "ip", "-j", "link", "show", "type", "veth"]
    found = subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout
    return [one for one in json.loads(found or "[]") if one]


@pytest.mark.slow  # a zygote that stands still for 10 s is given up
def test_a_network_that_a_container_is_about_to_start_on_stays(warm: CortenEngine) -> None:
    api = Api(warm.socket)
    with networks(api, "one", "two"):
        before = Snapshot.take(Subject.of(warm))
        make(api, "box", "one")
        zygote = zygote_of(warm)
        os.kill(zygote, signal.SIGSTOP)  # the start goes no further than its network
        try:
            starting = Asked(api, "POST", "/containers/box/start")
            wait_for(lambda: links(warm), "the interface of a container that starts")
            status, answer = api.call("DELETE", "/networks/one")
            assert (status, "has active endpoints" in answer["message"]) == (403, True), answer
            joining = Asked(api, "POST", "/networks/two/connect", {"Container": "box"})
            removing = Asked(api, "DELETE", "/containers/box")
        finally:
            os.kill(zygote, signal.SIGCONT)
        assert starting.answer()[0] == 204
        assert joining.answer()[0] == 200
        assert removing.answer()[0] in (204, 409)
        api.call("DELETE", "/containers/box?force=1")
        expect_none(before)


def clients_at_once(engine: CortenEngine, rounds: int) -> None:
    """Five clients at one container, round by round; who comes first is the machine's choice."""
    api = Api(engine.socket)
    with networks(api, "one", "two"):
        before = Snapshot.take(Subject.of(engine))
        for _ in range(rounds):
            make(api, "box", "one")
            api.ok("POST", "/containers/box/start")
            verbs: tuple[tuple[str, str, Any, set[int]], ...] = (
                ("POST", "/networks/two/connect", {"Container": "box"}, {200, 403, 409}),
                ("POST", "/networks/two/connect", {"Container": "box"}, {200, 403, 409}),
                ("POST", "/networks/two/disconnect", {"Container": "box"}, {200, 500}),
                ("POST", "/containers/box/restart?t=0", None, {204}),
                ("POST", "/containers/box/rename?name=box", None, {400}),
            )
            asked = [(one, Asked(api, *one[:3])) for one in verbs]
            for one, request in asked:
                status, answer = request.answer()
                assert status in one[3], (one, status, answer)
                assert status != 500 or "is not connected to" in answer["message"], answer
            judge(api)
            last = [Asked(api, "DELETE", "/containers/box?force=1"), *(Asked(api, *one[:3]) for one in verbs[:3])]
            for request in last:
                status, answer = request.answer()
                assert status in (200, 204, 403, 404, 409, 500), answer
                assert status != 500 or "is not connected to" in answer["message"], answer
        expect_none(before)


def judge(api: Api) -> None:
    """What runs has the interfaces that inspect tells of, and the networks tell of it."""
    found = api.ok("GET", "/containers/box/json")
    assert found["State"]["Running"]
    told = {name: one["IPAddress"] for name, one in found["NetworkSettings"]["Networks"].items()}
    links = inside(found["State"]["Pid"], "-4", "addr", "show", "scope", "global")
    assert sorted(each["local"] for one in links for each in one["addr_info"] if each) == sorted(told.values())
    for name in ("one", "two"):
        members = api.ok("GET", f"/networks/{name}")["Containers"]
        assert [one["IPv4Address"].partition("/")[0] for one in members.values()] == [
            told[one] for one in (name,) if one in told
        ]


def test_clients_at_once_leave_no_half_of_a_connection(warm: CortenEngine) -> None:
    clients_at_once(warm, GATE_ROUNDS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_clients_at_once_leave_no_half_of_a_connection_so_many_times(warm: CortenEngine) -> None:
    clients_at_once(warm, SLOW_ROUNDS)
