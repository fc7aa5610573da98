"""What a configuration must fulfil: time namespaces, id-mapped mounts, remounts, sysctls of joined namespaces."""

from __future__ import annotations

from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.launch import rootless
from corten.launch.compile import compile_init
from corten.launch.context import InitContext
from corten.launch.facts import HostFacts
from corten.launch.ops import Plan
from corten.spec.process import Process
from corten.spec.runtime import parse_config

FACTS = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup")


def plan(
    mounts: tuple[dict[str, Any], ...] = (),
    host_namespaces: tuple[str, ...] = (),
    facts: HostFacts = FACTS,
    **linux: Any,
) -> Plan:
    document = {
        "ociVersion": "1.2.0",
        "process": {"args": ["sh"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": list(mounts),
        "linux": {"namespaces": [{"type": "mount"}], **linux},
    }
    given = InitContext("c1", "/bundle", cgroup_paths={}, rootfs="/bundle/rootfs", host_namespaces=host_namespaces)
    return compile_init(parse_config(document), facts, given)


def joined(kind: str) -> list[dict[str, str]]:
    return [{"type": "mount"}, {"type": kind, "path": f"/proc/1/ns/{kind}"}]


@pytest.mark.parametrize("path", ["/proc/1/ns/mnt", "/proc/self/ns/mnt"])
def test_mount_namespace_is_never_joined(path: str) -> None:
    with pytest.raises(InvalidArgument, match=f"a mount namespace of its own is needed, joining {path} would"):
        plan(namespaces=[{"type": "mount", "path": path}])


def test_time_offsets_need_a_new_time_namespace() -> None:
    offsets = {"boottime": {"secs": 1}}
    with pytest.raises(InvalidArgument, match="but time namespace isn't enabled in the config"):
        plan(timeOffsets=offsets)
    with pytest.raises(InvalidArgument, match="both namespace path and time offsets"):
        plan(timeOffsets=offsets, namespaces=joined("time"))


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        ({"type": "bind", "source": "/srv", "options": ["idmap"]}, "needs a container with a user namespace"),
        ({"type": "tmpfs", "options": ["idmap"]}, "only supported for bind-mounts"),
        ({"type": "bind", "source": "/srv", "options": ["remount", "ridmap"]}, "only supported for bind-mounts"),
    ],
)
def test_id_mapped_mount_needs_a_mapping_and_a_bind(mount: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        plan(({"destination": "/x", **mount},))


@pytest.mark.parametrize("more", [{"options": ["idmap"]}, {"uidMappings": [{"size": 1}], "gidMappings": [{"size": 1}]}])
def test_id_mapped_mount_of_an_ordinary_user_is_refused_in_runcs_words(more: dict[str, Any]) -> None:
    mappings = [{"containerID": 0, "hostID": 1000, "size": 1}]
    linux = {"namespaces": [{"type": "user"}], "uidMappings": mappings, "gidMappings": mappings}
    document = {"ociVersion": "1.2.0", "mounts": [{"destination": "/x", "type": "bind", **more}], "linux": linux}
    with pytest.raises(InvalidArgument, match="id-mapped mounts are not supported for rootless containers"):
        rootless.check(parse_config(document), Process(("sh",), "/"))


@pytest.mark.parametrize("euid", [0, 1000])
@pytest.mark.parametrize(("kind", "of_users", "of_groups"), [("user", 1, 0), ("group", 0, 1)])
def test_a_user_namespace_without_a_root_is_refused_to_everybody(
    euid: int, kind: str, of_users: int, of_groups: int
) -> None:
    uids, gids = ([{"containerID": id, "hostID": 1000, "size": 1}] for id in (of_users, of_groups))
    namespaces = [{"type": "mount"}, {"type": "user"}]
    with pytest.raises(InvalidArgument, match=f"User namespaces enabled, but no {kind} mapping found"):
        plan(facts=FACTS.replaced(euid=euid), namespaces=namespaces, uidMappings=uids, gidMappings=gids)


def test_remount_needs_a_mount_before_it() -> None:
    again = {"destination": "/x", "type": "tmpfs", "options": ["remount", "ro"]}
    with pytest.raises(InvalidArgument, match="remount of /x: no mount before it goes there"):
        plan((again, {"destination": "/x", "type": "tmpfs"}))
    assert "mount_setattr mount.0 ro" in plan(({"destination": "/x", "type": "tmpfs"}, again)).describe()


def test_remount_that_is_writable_takes_back_what_was_read_only() -> None:
    first = {"destination": "/x", "type": "tmpfs", "options": ["ro"]}
    assert "mount_setattr mount.0 ro" in plan((first,)).describe()
    again = {"destination": "/x", "type": "tmpfs", "options": ["remount", "rw"]}
    assert "mount_setattr mount.0 ro" not in plan((first, again)).describe()


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("net.ipv4.ip_forward", "network", "not allowed in host network namespace"),
        ("kernel.msgmax", "ipc", "not allowed in the hosts ipc namespace"),
    ],
)
def test_sysctl_of_a_joined_namespace_that_is_the_hosts_is_refused(name: str, kind: str, text: str) -> None:
    assert plan(sysctl={name: "1"}, namespaces=joined(kind)).ops
    with pytest.raises(InvalidArgument, match=text):
        plan(sysctl={name: "1"}, namespaces=joined(kind), host_namespaces=(kind,))


def test_sysctl_of_users_needs_a_user_namespace() -> None:
    with pytest.raises(InvalidArgument, match="not allowed in the hosts user namespace"):
        plan(sysctl={"user.max_uts_namespaces": "1"})
    assert plan(sysctl={"user.max_uts_namespaces": "1"}, namespaces=joined("user")).ops
