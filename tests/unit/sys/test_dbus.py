"""D-Bus against bytes written by hand from the specification, and against a peer that was."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import Internal, Unavailable
from corten.sys import dbus
from support.fakesystemd import FakeSystemd, Wire

WHERE = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")

# signature, values, bytes: "Marshaling (Wire Format)"
WIRE: list[tuple[str, list[object], str]] = [
    ("y", [255], "ff"),
    ("b", [True], "01000000"),
    ("n", [-2], "feff"),
    ("q", [0xFFFE], "feff"),
    ("x", [-1], "ffffffffffffffff"),
    ("yt", [1, 2], "01 00000000000000 0200000000000000"),
    ("s", ["foo"], "03000000 666f6f 00"),
    ("yo", [1, "/"], "01 000000 01000000 2f 00"),
    ("g", ["au"], "02 6175 00"),
    ("au", [[5, 6]], "08000000 05000000 06000000"),
    ("at", [[]], "00000000 00000000"),  # the padding is there without an element too
    ("ay", [b"\x01\x02"], "02000000 0102"),
    ("v", [("u", 7)], "01 75 00 00 07000000"),
    ("(yu)y", [(1, 2), 3], "01 000000 02000000 03"),
    ("a(sv)", [[("A", ("b", True))]], "10000000 00000000 01000000 41 00 01 62 00 000000 01000000"),
    ("a{sy}", [{"a": 1}], "07000000 00000000 01000000 61 00 01"),
]


@pytest.mark.parametrize(("signature", "values", "text"), WIRE, ids=[row[0] for row in WIRE])
def test_values_are_marshalled_as_the_specification_says(signature: str, values: list[object], text: str) -> None:
    data = bytes.fromhex(text)
    assert dbus.encode(signature, values).hex() == data.hex()
    read = dbus.Reader(data, "little").values(signature)
    assert read == [list(value) if isinstance(value, bytes) else value for value in values]


def test_a_method_call_on_the_wire_is_the_one_written_by_hand() -> None:
    fields: dict[int, object] = {dbus.PATH: "/a", dbus.MEMBER: "M"}
    made = dbus.pack(dbus.Message(dbus.CALL, 1, fields, ["x"]), "s")
    rows = "01016f00 02000000 2f6100 0000000000 03017300 01000000 4d00 000000000000 08016700 01 73 00"
    size = len(bytes.fromhex(rows))
    head = "6c 01 00 01 06000000 01000000" + size.to_bytes(4, "little").hex() + rows
    padding = bytes(-len(bytes.fromhex(head)) % 8).hex()
    assert made.hex() == bytes.fromhex(head + padding + "01000000 7800").hex()
    assert dbus.size_of(made[:16]) == len(made)
    assert dbus.unpack(made).fields == {**fields, dbus.SIGNATURE: "s"}


def test_the_other_byte_order_is_read() -> None:
    rows = "05017500 00000009 08016700 01 75 00 00"
    data = bytes.fromhex("42 02 00 01 00000004 00000003 0000000f" + rows + "00000005")
    message = dbus.unpack(data)
    assert (message.kind, message.serial, message.fields[dbus.REPLY_SERIAL], message.body) == (2, 3, 9, [5])


@pytest.mark.parametrize("signature", ["(", "()", "a", "(s", "z", "s)", "a" * 100 + "s", "{s"])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(Internal, match="signature"):
        list(dbus.types(signature))


@pytest.mark.parametrize("data", ["ff000000", "04000000616200", "0000", "01000000 61"])
def test_a_message_that_ends_early_is_refused(data: str) -> None:
    with pytest.raises(Internal, match="shorter"):
        dbus.Reader(bytes.fromhex(data), "little").values("s")


def test_nested_variants_do_not_exhaust_the_stack() -> None:
    with pytest.raises(Internal, match="nested"):
        dbus.Reader(b"\x01v\x00" * 5000, "little").values("v")


def test_a_message_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(Internal, match="bytes"):
        dbus.size_of(bytes.fromhex("6c010001 ffffff0f 01000000 00000000"))
    with pytest.raises(Internal, match="does not speak D-Bus"):
        dbus.size_of(b"HTTP/1.1 400 Bad")


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSystemd]:
    made = FakeSystemd(tmp_path / "private")
    yield made
    made.close()


@pytest.fixture
def connection(fake: FakeSystemd) -> Iterator[dbus.Connection]:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(str(fake.path))
    made = dbus.Connection(stream.detach())
    made.authenticate()
    yield made
    made.close()


def test_a_peer_that_was_written_from_the_specification_understands_everything(
    connection: dbus.Connection, fake: FakeSystemd
) -> None:
    properties = [("PIDs", ("au", [1, 2])), ("TasksMax", ("t", (1 << 64) - 1)), ("AllowedCPUs", ("ay", [3]))]
    connection.call(*WHERE, "SetUnitProperties", "sba(sv)", ("a.scope", True, properties))
    connection.call(*WHERE, "Subscribe")
    assert fake.calls == [("SetUnitProperties", ["a.scope", True, properties]), ("Subscribe", [])]
    identity = str(os.geteuid()).encode().hex()  # of its digits in ASCII
    assert fake.authenticated == [f"AUTH EXTERNAL {identity}\r\n".encode()]


def test_an_error_has_its_name(connection: dbus.Connection, fake: FakeSystemd) -> None:
    fake.fails["StopUnit"] = [("org.freedesktop.systemd1.NoSuchUnit", "Unit a.scope not loaded.")]
    with pytest.raises(dbus.BusError, match=r"^StopUnit: Unit a.scope not loaded\.$") as caught:
        connection.call(*WHERE, "StopUnit", "ss", ("a.scope", "replace"))
    assert caught.value.name == "org.freedesktop.systemd1.NoSuchUnit"


def test_an_answer_that_the_peer_keeps_to_itself_is_asked_for(connection: dbus.Connection, fake: FakeSystemd) -> None:
    fake.is_lazy = True
    fake.fails["StopUnit"] = [("org.freedesktop.systemd1.NoSuchUnit", "Unit a.scope not loaded.")]
    began = time.monotonic()
    with pytest.raises(dbus.BusError, match=r"not loaded\.$"):
        connection.call(*WHERE, "StopUnit", "ss", ("a.scope", "replace"))
    assert time.monotonic() - began < 10
    connection.call(*WHERE, "Subscribe")  # the answers to the nudges are passed over
    assert fake.members() == ["StopUnit", "Subscribe"]


def test_a_signal_is_found_whether_it_came_before_the_reply_or_after(connection: dbus.Connection) -> None:
    for _ in range(2):
        (job,) = connection.call(*WHERE, "StopUnit", "ss", ("a.scope", "replace"))
        found = connection.wait_signal(lambda message, job=job: message.body[1] == job, 10)  # type: ignore[misc]
        assert found.body == [7, job, "a.scope", "done"]
    assert [message.body[2] for message in connection.signals] == ["other.scope"] * len(connection.signals)


def test_a_peer_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus, "TIMEOUT_S", 0.2)
    ours, theirs = socket.socketpair()
    connection = dbus.Connection(ours.detach())
    with theirs, pytest.raises(Unavailable, match="no answer in time"):
        connection.call(*WHERE, "SetUnitProperties", "s", ("x" * (1 << 22),))
    connection.close()


def test_a_peer_that_is_silent_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    connection = dbus.Connection(ours.detach())
    with pytest.raises(Unavailable, match="no answer in time"):
        connection.wait_signal(lambda message: True, 0.05)
    theirs.close()
    with pytest.raises(Unavailable, match="connection was closed"):
        connection.call(*WHERE, "Subscribe")
    connection.close()


def test_a_peer_that_knows_no_such_user_is_told() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"REJECTED EXTERNAL\r\n")
    connection = dbus.Connection(ours.detach())
    with pytest.raises(Unavailable, match="authentication: REJECTED EXTERNAL"):
        connection.authenticate()
    connection.close()
    theirs.close()


def test_the_peer_of_these_tests_reads_what_the_specification_shows() -> None:
    assert Wire(bytes.fromhex("01750000 07000000"), "<").read("v") == [("u", 7)]
