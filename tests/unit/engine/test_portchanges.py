"""`corten port add` and `rm`: what a container asks for afterwards."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from corten.engine import portchanges
from corten.engine.effective import Effective
from corten.errors import Conflict, InvalidArgument, NotFound
from corten.network.values import ANY, ANY6, Publication
from corten.spec.docker import ContainerConfig, HostConfig, PortBinding

Words = dict[str, list[tuple[str, str]]]


def asked(words: Words) -> portchanges.Asked:
    return {key: [PortBinding(ip, port) for ip, port in of] for key, of in words.items()}


def effective(words: Words) -> Effective:
    fields: dict[str, Any] = dict.fromkeys(one.name for one in msgspec.structs.fields(Effective))
    fields |= {"host": replace(HostConfig(), port_bindings=asked(words)), "config": ContainerConfig(), "origins": {}}
    return Effective(**fields)


def bindings(of: Effective) -> Words:
    found = of.host.port_bindings or {}
    return {key: [(one.host_ip, one.host_port) for one in words or ()] for key, words in found.items()}


def published(port: int, inside: int = 80) -> tuple[Publication, Publication]:
    return Publication("tcp", ANY, port, inside), Publication("tcp", ANY6, port, inside, is_relayed=True)


def test_ports_are_added_and_exposed_and_say_where_they_are_from() -> None:
    after = portchanges.with_added(effective({"80": [("", "8080")]}), asked({"80/tcp": [("", "81")], "53/udp": []}))
    assert bindings(after) == {"80/tcp": [("", "8080"), ("", "81")], "53/udp": [("", "")]}
    assert after.config.exposed_ports == {"80/tcp": {}, "53/udp": {}}
    assert after.origins == {"HostConfig.PortBindings": "update"}


def test_what_is_published_already_or_is_no_port_is_refused() -> None:
    before = effective({"80/tcp": [("", "8080")]})
    with pytest.raises(Conflict, match="port 8080 is published already for 80/tcp"):
        portchanges.with_added(before, asked({"80": [("", "8080")]}))
    with pytest.raises(InvalidArgument, match='invalid port specification: "x"'):
        portchanges.with_added(before, asked({"80/tcp": [("", "x")]}))


@pytest.mark.parametrize(
    ("before", "there", "gone", "after", "lost"),
    [
        ({"80/tcp": [("", "8080")]}, published(8080), {"80/tcp": [("", "8080")]}, {}, published(8080)),
        ({"80/tcp": [("", "8080")]}, (), {"80/tcp": [("", "8080")]}, {}, ()),
        (
            {"80/tcp": [("", "8080"), ("", "81")]},
            (*published(8080), *published(81)),
            {"80/tcp": [("", "81")]},
            {"80/tcp": [("", "8080")]},
            published(81),
        ),
        ({"80/tcp": [("", "1"), ("", "2")], "81/tcp": [("", "3")]}, (), {"80": []}, {"81/tcp": [("", "3")]}, ()),
        # ephemeral ones: by the number that came of them, and as many words stay as ports do
        (
            {"80/tcp": [("", ""), ("", "")]},
            (*published(32768), *published(32769)),
            {"80/tcp": [("", "32768")]},
            {"80/tcp": [("", "")]},
            published(32768),
        ),
        ({"80/tcp": [("", "70-79")]}, published(72), {"80/tcp": [("", "72")]}, {}, published(72)),
        (
            {"80/tcp": [("127.0.0.1", "80"), ("127.0.0.2", "80")]},
            tuple(Publication("tcp", IPv4Address(f"127.0.0.{n}"), 80, 80) for n in (1, 2)),
            {"80/tcp": [("127.0.0.2", "80")]},
            {"80/tcp": [("127.0.0.1", "80")]},
            (Publication("tcp", IPv4Address("127.0.0.2"), 80, 80),),
        ),
    ],
)
def test_ports_go_with_the_words_that_asked_for_them(
    before: Words, there: tuple[Publication, ...], gone: Words, after: Words, lost: tuple[Publication, ...]
) -> None:
    changed, found = portchanges.without(effective(before), asked(gone), there)
    assert (bindings(changed), found) == (after, lost)


def test_a_port_of_publish_all_goes_without_words() -> None:
    changed, found = portchanges.without(effective({}), asked({"80/tcp": []}), published(32768))
    assert (bindings(changed), found) == ({}, published(32768))


@pytest.mark.parametrize("gone", [{"99/tcp": []}, {"80/tcp": [("", "81")]}, {"80/udp": []}])
def test_what_is_not_published_cannot_go(gone: Words) -> None:
    with pytest.raises(NotFound, match=r"no public port '.*' is published"):
        portchanges.without(effective({"80/tcp": [("", "8080")]}), asked(gone), published(8080))
