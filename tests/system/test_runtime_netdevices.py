"""`linux.netDevices`: devices of a network namespace of the test's own, moved into containers by `corten-runtime`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, runtimes
from support.netns import InNetNs, NetNs
from support.runtimes import Bundle, Runtime


@pytest.fixture
def netns() -> Iterator[NetNs]:
    """A namespace with the pairs one-far and two-far, both up; `one` has three addresses."""
    with NetNs() as made:
        for name in ("one", "two"):
            made.run(["ip", "link", "add", name, "mtu", "1400", "type", "veth", "peer", "name", f"{name}-far"])
            made.run(["ip", "link", "set", name, "up", "alias", f"this is {name}"])
        made.run(["ip", "address", "add", "192.0.2.7/24", "broadcast", "192.0.2.255", "dev", "one"])
        made.run(["ip", "address", "add", "198.51.100.1", "peer", "198.51.100.9/32", "dev", "one"])
        made.run(["ip", "address", "add", "2001:db8::7/64", "dev", "one", "nodad"])
        yield made


@pytest.fixture
def corten(folder: Path, netns: NetNs) -> Iterator[Runtime]:
    made = InNetNs(Runtime(paths.COMMANDS / "corten-runtime", folder / "root"), netns)
    yield made
    made.close()


def with_devices(folder: Path, devices: dict[str, Any], *command: str) -> Bundle:
    bundle = runtimes.bundle(*(command or ("sleep", "1000")), folder=folder / "bundle")
    bundle.config["linux"]["netDevices"] = devices
    return bundle.save()


def links(enter: list[str]) -> dict[str, dict[str, Any]]:
    """Everything that `ip` knows of the devices, by name, and their addresses of global scope."""
    done = subprocess.run([*enter, "ip", "-json", "address"], capture_output=True, check=True, text=True)
    found = {}
    for row in json.loads(done.stdout):
        addresses = sorted(
            (entry["local"], entry.get("address", ""), entry["prefixlen"], entry.get("broadcast", ""))
            for entry in row["addr_info"]
            if entry["scope"] == "global"
        )
        found[row["ifname"]] = {
            **{name: row.get(name) for name in ("mtu", "address", "ifalias")},
            "up": "UP" in row["flags"],
            "addresses": addresses,
        }
    return found


def inside(corten: Runtime, id: str = "c") -> dict[str, dict[str, Any]]:
    return links(["nsenter", f"--net=/proc/{corten.state(id)['pid']}/ns/net"])


def test_a_device_is_moved_with_its_addresses_and_renamed(corten: Runtime, netns: NetNs, folder: Path) -> None:
    before = links(netns.enter)["one"]
    assert len(before["addresses"]) == 3
    bundle = with_devices(folder, {"one": {"name": "eth0"}, "two": {}})
    corten.detached("create", "-b", str(bundle.path), "c")
    found = inside(corten)
    assert found["eth0"] == before
    assert found["two"]["up"]
    assert not {"one", "two", "eth0"} & set(links(netns.enter))
    corten("start", "c", check=True)
    assert corten.state("c")["status"] == "running"


def test_the_process_sees_them_from_its_first_moment(corten: Runtime, folder: Path) -> None:
    bundle = with_devices(folder, {"two": {"name": "eth7"}}, "sh", "-c", "cat /proc/net/dev; ls /sys/class/net")
    done = corten("run", "-b", str(bundle.path), "c", check=True)
    assert "eth7:" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["eth7", "lo"]


def test_a_hook_sees_them_and_a_failing_one_brings_them_back(corten: Runtime, netns: NetNs, folder: Path) -> None:
    before = links(netns.enter)
    bundle = with_devices(folder, {"one": {"name": "eth0"}, "two": {}})
    script = f"ip link > {folder}/seen; exit 3"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    bundle.save()
    done = corten("run", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    seen = (folder / "seen").read_text()
    assert "one-far" in seen
    assert " one@" not in seen
    assert links(netns.enter) == before


def test_one_that_is_down_and_has_no_address_comes_back_so(corten: Runtime, netns: NetNs, folder: Path) -> None:
    netns.run(["ip", "link", "set", "two", "down"])
    before = links(netns.enter)
    bundle = with_devices(folder, {"one": {}, "two": {}})
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    done = corten("run", "-b", str(bundle.save().path), "c")
    assert done.returncode == 1
    assert links(netns.enter) == before


def test_delete_of_a_container_that_was_not_started_gives_them_back(
    corten: Runtime, netns: NetNs, folder: Path
) -> None:
    before = links(netns.enter)
    bundle = with_devices(folder, {"one": {"name": "eth0"}, "two": {}})
    for force in ((), ("--force",)):
        corten.detached("create", "-b", str(bundle.path), "c")
        assert not {"one", "two"} & set(links(netns.enter))
        assert corten("delete", *force, "c", check=True).stderr == ""
        assert links(netns.enter) == before


def test_from_another_namespace_they_cannot_come_back_and_that_is_said(
    corten: Runtime, netns: NetNs, folder: Path
) -> None:
    bundle = with_devices(folder, {"one": {"name": "eth0"}})
    corten.detached("create", "-b", str(bundle.path), "c")
    elsewhere = Runtime(corten.program, corten.root)
    done = elsewhere("delete", "c", check=True)
    assert "network devices of the container came from another network namespace than this one" in done.stderr
    assert "one" not in links(netns.enter)


def test_the_first_is_brought_back_when_the_second_cannot_move(corten: Runtime, netns: NetNs, folder: Path) -> None:
    before = links(netns.enter)
    bundle = with_devices(folder, {"one": {"name": "eth0"}, "lo": {"name": "lo2"}})
    done = corten("run", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert "move network device lo: move lo: invalid argument" in done.stderr
    assert links(netns.enter) == before


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ({"one": {}, "none": {}}, "link not found for interface none on runtime namespace"),
        ({"one": {}, "two": {"name": "lo"}}, "link already exist with name lo on container namespace"),
        ({"one": {"name": "a/b"}}, "invalid network device name 'a/b'"),
        ({"one": {"name": "x" * 16}}, "invalid network device name"),
        ({"one": {"name": "eth0"}, "two": {"name": "eth0"}}, "two network devices would be 'eth0' in the container"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_moves(
    devices: dict[str, Any], words: str, corten: Runtime, netns: NetNs, folder: Path
) -> None:
    before = links(netns.enter)
    done = corten("run", "-b", str(with_devices(folder, devices).path), "c")
    assert done.returncode == 1
    assert words in done.stderr
    assert links(netns.enter) == before


def test_without_a_network_namespace_it_is_an_error(corten: Runtime, netns: NetNs, folder: Path) -> None:
    bundle = with_devices(folder, {"one": {}})
    spaces = bundle.config["linux"]["namespaces"]
    bundle.config["linux"]["namespaces"] = [row for row in spaces if row["type"] != "network"]
    done = corten("run", "-b", str(bundle.save().path), "c")
    assert done.returncode == 1
    assert "unable to move network devices without a private NET namespace" in done.stderr


def test_a_joined_namespace_gets_them_too(corten: Runtime, netns: NetNs, folder: Path) -> None:
    with NetNs() as other:
        bundle = with_devices(folder, {"one": {"name": "eth0"}}, "cat", "/proc/net/dev")
        for row in bundle.config["linux"]["namespaces"]:
            if row["type"] == "network":
                row["path"] = str(other.path)
        done = corten("run", "-b", str(bundle.save().path), "c", check=True)
        assert "eth0:" in done.stdout
        assert len(links(other.enter)["eth0"]["addresses"]) == 3
