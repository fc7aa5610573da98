"""docker ps filters, and the STATUS column."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from corten.engine import filters
from corten.engine.container import Container
from corten.engine.filters import ListQuery, status_text
from corten.engine.record import Record, Status
from corten.errors import CortenError, Internal, InvalidArgument
from corten.network.values import Endpoint, Publication

from .conftest import Decide

SECOND = 10**9
NETWORKS = {"bridge": "ab" * 32, "none": "cd" * 32}
Make = Callable[..., Container]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def make(decide: Decide, loop: asyncio.AbstractEventLoop) -> Make:
    def run(name: str = "web", *, created: int = 10, state: dict[str, Any] | None = None, **body: Any) -> Container:
        record = Record(
            id=f"{name:x<8}".encode().hex().ljust(64, "0"),
            name=name,
            image_id="sha256:1",
            image_ref="busybox",
            created_ns=created,
            effective=decide(**body),
        )
        return Container(record.with_state(**(state or {"status": Status.RUNNING})), loop)

    return run


def found(containers: list[Container], *, all: bool = False, **wanted: list[str]) -> list[str]:
    query = {key.replace("_", "-"): values for key, values in wanted.items()}
    filters.check(query)
    one = ListQuery(query, all=all, ancestors=None, before=None, since=None, network_ids=NETWORKS)
    return [container.name for container in containers if one.matches(container)]


def test_without_all_only_running_ones_are_listed(make: Make) -> None:
    both = [make("up"), make("down", state={"status": Status.EXITED})]
    assert found(both) == ["up"]
    assert found(both, all=True) == ["up", "down"]


def test_a_status_implies_all_and_an_exit_code_does_not(make: Make) -> None:
    both = [make("up"), make("down", state={"status": Status.EXITED, "exit_code": 3})]
    assert found(both, status=["exited"]) == ["down"]
    assert found(both, exited=["3"]) == []
    assert found(both, all=True, exited=["3"]) == ["down"]
    assert found(both, all=True, exited=["0"]) == []


def test_names_are_patterns(make: Make) -> None:
    both = [make("web1"), make("db")]
    assert found(both, name=["web"]) == ["web1"]
    assert found(both, name=["^/db$"]) == ["db"]
    assert found(both, name=["^b"]) == []


def test_ids_are_prefixes(make: Make) -> None:
    one = make("web")
    assert found([one], id=[one.id[:6]]) == ["web"]
    assert found([one], id=["f00"]) == []


def test_labels_match_by_key_or_by_value(make: Make) -> None:
    one = make(Labels={"a": "1", "b": "2"})
    assert found([one], label=["a"]) == ["web"]
    assert found([one], label=["a=1", "b=2"]) == ["web"]
    assert found([one], label=["a=2"]) == []


def test_networks_and_volumes(make: Make) -> None:
    one = make(HostConfig={"NetworkMode": "none", "Binds": ["/tmp:/data"]})
    assert found([one], network=["none"]) == ["web"]
    assert found([one], network=["bridge"]) == []
    assert found([one], volume=["/data"]) == ["web"]
    assert found([one], volume=["/tmp"]) == ["web"]


def test_published_and_exposed_ports(make: Make) -> None:
    one = make(ExposedPorts={"80/tcp": {}, "53/udp": {}})
    one.endpoints["bridge"] = Endpoint(
        endpoint_id="e",
        container_id=one.id,
        network_id="n",
        address=IPv4Interface("172.17.0.2/16"),
        gateway=IPv4Address("172.17.0.1"),
        mac="",
        link="",
        publications=(Publication("tcp", IPv4Address("0.0.0.0"), 8080, 80),),
    )
    assert found([one], publish=["8080"]) == ["web"]
    assert found([one], publish=["80"]) == []
    assert found([one], publish=["8070-8090/tcp"]) == ["web"]
    assert found([one], publish=["53/udp"]) == []
    assert found([one], expose=["53/udp"]) == ["web"]


def test_age_is_relative_to_another_container(make: Make) -> None:
    old, middle, young = make("old", created=1), make("middle", created=2), make("young", created=3)
    before = ListQuery({}, all=False, ancestors=None, before=middle.record, since=None, network_ids=NETWORKS)
    since = ListQuery({}, all=False, ancestors=None, before=None, since=middle.record, network_ids=NETWORKS)
    ended = make("ended", created=4, state={"status": Status.EXITED})
    assert [one.name for one in (old, middle, young, ended) if before.matches(one)] == ["old"]
    assert [one.name for one in (old, middle, young, ended) if since.matches(one)] == ["young"]


def test_nobody_is_healthy_where_there_are_no_checks(make: Make) -> None:
    assert found([make()], health=["healthy"]) == []
    assert found([make()], health=["none"]) == ["web"]


@pytest.mark.parametrize(
    ("wanted", "kind", "text"),
    [
        ({"foo": ["x"]}, InvalidArgument, "invalid filter 'foo'"),
        ({"status": ["foo"]}, InvalidArgument, "invalid filter 'status=foo'"),
        ({"health": ["foo"]}, InvalidArgument, "unrecognized filter value for health: foo"),
        ({"is-task": ["foo"]}, InvalidArgument, "invalid filter 'is-task=[foo]'"),
        (
            {"publish": ["foo"]},
            Internal,
            'error while looking up for publish foo: strconv.ParseUint: parsing "foo": invalid syntax',
        ),
    ],
)
def test_wrong_filters_are_refused_in_dockers_words(
    wanted: dict[str, list[str]], kind: type[CortenError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        filters.check(wanted)
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"status": Status.RUNNING, "started_ns": 40 * SECOND}, "Up About a minute"),
        ({"status": Status.PAUSED, "started_ns": 99 * SECOND}, "Up 1 second (Paused)"),
        ({"status": Status.EXITED, "exit_code": 3, "finished_ns": 90 * SECOND}, "Exited (3) 10 seconds ago"),
        (
            {"status": Status.RESTARTING, "exit_code": 1, "finished_ns": 100 * SECOND},
            "Restarting (1) Less than a second ago",
        ),
        ({"status": Status.CREATED}, "Created"),
        ({"status": Status.REMOVING}, "Removal In Progress"),
        ({"status": Status.DEAD}, "Dead"),
    ],
)
def test_the_status_column(make: Make, state: dict[str, Any], text: str) -> None:
    assert status_text(make(state=state).record, 100 * SECOND) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1-99999999999", 'publish 1-99999999999: strconv.ParseUint: parsing "99999999999": value out of range'),
        ("70000", 'publish 70000: strconv.ParseUint: parsing "70000": value out of range'),
        ("5-3", "publish 5-3: Invalid range specified for the Port: 5-3"),
        ("", "publish : Empty string specified for ports."),
        ("\u00b2", 'publish \u00b2: strconv.ParseUint: parsing "\u00b2": invalid syntax'),
    ],
)
def test_ports_that_are_none_are_refused_before_anything_is_made_of_them(value: str, text: str) -> None:
    with pytest.raises(Internal) as caught:
        filters.check({"publish": [value]})
    assert caught.value.text == f"error while looking up for {text}"


def test_an_address_is_no_port_filter() -> None:
    with pytest.raises(Internal, match=r"^filter for 'expose' should not contain ':': 80:80$"):
        filters.check({"expose": ["80:80"]})


def test_exit_codes_are_numbers(make: Make) -> None:
    gone = [make("gone", state={"status": Status.EXITED, "exit_code": 3})]
    assert found(gone, all=True, exited=["03"]) == found(gone, all=True, exited=["+3"]) == ["gone"]
    for value in ("--3", "\u00b2", ""):
        with pytest.raises(InvalidArgument, match="strconv"):
            found(gone, exited=[value])


def test_a_network_is_named_or_the_beginning_of_its_id(make: Make) -> None:
    both = [
        make("up", state={"status": Status.RUNNING, "started_ns": 5}),
        make("new", state={"status": Status.CREATED}),
    ]
    assert found(both, all=True, network=["abab"]) == ["up"]
    assert found(both, all=True, network=["bridge"]) == ["up", "new"]
    assert found(both, all=True, network=["cd"]) == found(both, all=True, network=[""]) == []
