"""Namespaces by path, before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.errors import InvalidArgument, NotFound
from corten.runtime.joining import host_namespaces
from corten.spec.runtime import Config, Linux, Namespace


def config(*entries: tuple[str, str], **sysctl: str) -> Config:
    namespaces = tuple(Namespace(type, path) for type, path in entries)
    return Config("1.2.0", None, None, linux=Linux(namespaces=namespaces, sysctl=sysctl))


def test_own_namespaces_are_found_by_what_they_are_and_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self/ns/net")
    (tmp_path / "file").touch()
    found = host_namespaces(
        config(("network", str(tmp_path / "link")), ("ipc", "/proc/self/ns/ipc"), ("uts", str(tmp_path / "file")))
    )
    assert found == ("network", "ipc")


def test_missing_path_is_an_error_in_runcs_words() -> None:
    with pytest.raises(NotFound, match=r"^unable to create new parent process: namespace path: lstat /nope: no such"):
        host_namespaces(config(("uts", "/nope")))
    with pytest.raises(InvalidArgument, match="lstat /etc/passwd/x: not a directory"):
        host_namespaces(config(("uts", "/etc/passwd/x")))


def test_sysctl_of_a_missing_network_namespace_is_named_first() -> None:
    with pytest.raises(NotFound, match=r"^invalid netns path: stat /nope"):
        host_namespaces(config(("network", "/nope"), **{"net.ipv4.ip_forward": "1"}))
    with pytest.raises(NotFound, match=r"^invalid netns path: stat /nope"):
        host_namespaces(config(("network", "/nope"), **{"net/ipv4/ip_forward": "1"}))


def test_dangling_link_is_left_to_the_launcher(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/nope")
    assert host_namespaces(config(("uts", str(tmp_path / "link")))) == ()
