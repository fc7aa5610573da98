"""Containers whose users are mapped (`userns-remap`): who they are on the host, on the disk and to each other."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, paths, peers, process, programs, tarballs
from support.engine import CortenEngine
from support.remapped import COUNT, FIRST, SETTING, RemappedEngine

IMAGE = images.BUSYBOX_REF
TOOLS = "tools:1"
MAP = f"0 {FIRST} {COUNT}"
OTHER_RUNTIME = (
    "runtime runc: user namespaces (userns-remap) are not supported with other runtimes than the built-in one yet: "
    "give --userns=host"
)
NET_RAW = "\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"  # cap_net_raw+ep, as setcap(8) writes it


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CortenEngine]:
    """An engine with a map, and two containers: `box` with it, `plain` with the host's users."""
    who = programs.build(Path(__file__).parent / "who.c", tmp_path_factory.mktemp("who") / "who").read_bytes()
    tools = images.layer(
        [
            images.Entry("bin/set-id", who, mode=0o6755),
            images.Entry("bin/able", who, mode=0o755, pax={"SCHILY.xattr.security.capability": NET_RAW}),
            images.Entry("beyond", b"x", uid=70000, gid=70000),
        ]
    )
    archive = images.docker_archive([TOOLS], [*images.busybox_layers(), tools], {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    runtimes = {"runc": {"path": str(peers.binary("runc"))}}
    with RemappedEngine(config={**SETTING, "runtimes": runtimes}) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("load", stdin=archive, check=True)
        engine.docker("run", "-d", "--name", "box", "--ipc", "shareable", IMAGE, "sleep", "1000", check=True)
        engine.docker("run", "-d", "--name", "plain", "--userns", "host", IMAGE, "sleep", "1000", check=True)
        yield engine


def run(engine: CortenEngine, *args: str) -> str:
    return engine.docker("run", "--rm", *args, check=True).stdout.strip()


def pid_of(engine: CortenEngine, name: str) -> int:
    return int(engine.docker("inspect", "-f", "{{.State.Pid}}", name, check=True).stdout)


def uid_map(engine: CortenEngine, *args: str) -> str:
    return " ".join(run(engine, *args, IMAGE, "cat", "/proc/self/uid_map").split())


def on_disk(engine: CortenEngine, name: str) -> os.stat_result:
    """Of a file that one container alone has, in its own layer."""
    (found,) = engine.data_root.glob(f"snapshots/*/fs/{name}")
    return found.lstat()


def test_root_of_a_container_is_a_user_of_the_host_and_has_namespaces_of_its_own(mapped: CortenEngine) -> None:
    pid = pid_of(mapped, "box")
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}" in status
    assert f"Gid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}" in status
    maps = [Path(f"/proc/{pid}/{kind}_map").read_text().split() for kind in ("uid", "gid")]
    assert maps == [MAP.split()] * 2
    mapped.docker("run", "-d", "--rm", "--name", "second", IMAGE, "sleep", "1000", check=True)
    both = [os.readlink(f"/proc/{one}/ns/user") for one in (pid, pid_of(mapped, "second"))]
    mapped.docker("rm", "-f", "second", check=True)
    assert len({*both, os.readlink("/proc/self/ns/user")}) == 3


def test_info_and_explain_tell_of_the_map(mapped: CortenEngine) -> None:
    assert "name=userns" in json.loads(mapped.docker("info", "-f", "{{json .SecurityOptions}}", check=True).stdout)
    rows = mapped.corten("run", "--explain", IMAGE, check=True).stdout.splitlines()
    (row,) = [row.split() for row in rows if row.startswith("HostConfig.IDMappings")]
    assert row[1:] == ["daemon.json", f"0:{FIRST}:{COUNT}"]
    assert any(f"write id maps of the child: uid {MAP}; gid {MAP}" in row for row in rows)
    rows = mapped.corten("run", "--explain", "--userns", "host", IMAGE, check=True).stdout.splitlines()
    assert not any("IDMappings" in row or "id maps" in row for row in rows)


def test_layers_keep_the_ids_of_the_container(mapped: CortenEngine) -> None:
    script = (
        "echo a >/owned && chown 1000:50 /owned && chmod 4755 /owned && cat /etc/passwd >/dev/null && stat -c %u:%g /"
    )
    assert mapped.docker("exec", "box", "sh", "-c", script, check=True).stdout == "0:0\n"
    found = on_disk(mapped, "owned")
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1000, 50, 0o4755)
    assert "A /owned" in mapped.docker("diff", "box", check=True).stdout.splitlines()


def test_programs_of_an_image_that_change_ids_and_have_capabilities_do_so_inside(mapped: CortenEngine) -> None:
    assert run(mapped, "-u", "1000:1000", TOOLS, "set-id").split()[:2] == ["0", "0"]
    assert run(mapped, "-u", "1000:1000", TOOLS, "able").split() == ["1000", "1000", "0000000000002000"]


def test_an_id_beyond_the_range_is_nobodys_and_nobody_can_be_it(mapped: CortenEngine) -> None:
    assert run(mapped, TOOLS, "stat", "-c", "%u:%g", "/beyond") == "65534:65534"
    refused = mapped.docker("run", "--rm", TOOLS, "sh", "-c", "chown 0 /beyond || echo x >/beyond")
    assert refused.returncode == 1
    assert refused.stderr.count("beyond:") == 2
    for words in (("run", "--rm", "-u", "70000", IMAGE, "id"), ("exec", "-u", "70000", "box", "id")):
        done = mapped.docker(*words)
        assert done.returncode in (125, 126)
        assert "cannot set uid to unmapped user in user namespace" in done.stdout + done.stderr


def test_stdio_of_a_user_can_be_opened_by_him(mapped: CortenEngine) -> None:
    assert run(mapped, "-u", "1000", IMAGE, "sh", "-c", "echo a >/dev/stdout") == "a"
    done = mapped.docker("exec", "-u", "1000", "box", "sh", "-c", "echo a >/dev/stdout; id -u", check=True)
    assert done.stdout == "a\n1000\n"


def test_the_engines_files_and_tmpfs_are_roots(mapped: CortenEngine) -> None:
    names = "/etc/hosts /etc/hostname /etc/resolv.conf /dev/shm /t"
    script = f"stat -c %u:%g {names}; echo 1.2.3.4 more >>/etc/hosts"
    for ipc in ("private", "shareable"):
        assert run(mapped, "--tmpfs", "/t", "--ipc", ipc, IMAGE, "sh", "-c", script).split() == ["0:0"] * 5


def test_the_network_is_its_own_to_rule_and_a_ping_needs_no_range(mapped: CortenEngine) -> None:
    script = "ping -c1 -W9 127.0.0.1 >/dev/null && ip addr add 10.99.0.1/32 dev lo && ip addr | grep -c 10.99"
    assert run(mapped, "--cap-add", "NET_ADMIN", IMAGE, "sh", "-c", script) == "1"


def test_copies_go_by_the_ids_of_the_container(mapped: CortenEngine) -> None:
    archive = tarball("given", uid=1000, gid=50)
    mapped.docker("create", "--name", "stopped", IMAGE, "sleep", "1000", check=True)
    for name in ("box", "stopped"):
        mapped.docker("cp", "-", f"{name}:/tmp", stdin=archive, check=True)
        assert owners(mapped, f"{name}:/tmp/given") == {"given": (1000, 50)}
    mapped.docker("start", "stopped", check=True)
    for name in ("box", "stopped"):
        done = mapped.docker("exec", name, "stat", "-c", "%u:%g", "/tmp/given", check=True)
        assert done.stdout == "1000:50\n"
    done = mapped.docker("cp", "-", "box:/tmp", stdin=tarball("far", uid=70000, gid=0))
    assert "Container ID 70000 cannot be mapped to a host ID" in done.stderr
    mapped.docker("rm", "-f", "stopped", check=True)


def tarball(name: str, *, uid: int, gid: int) -> bytes:
    return tarballs.archive(tarballs.entry(name.encode(), data=b"x", uid=uid, gid=gid))


def owners(engine: CortenEngine, path: str) -> dict[str, tuple[int, int]]:
    argv = [str(peers.docker_cli()), "-H", engine.host, "cp", path, "-"]
    text = subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout
    with tarfile.open(fileobj=io.BytesIO(text)) as archive:
        return {member.name: (member.uid, member.gid) for member in archive}


def test_what_is_committed_and_exported_has_the_same_ids_without_a_map(mapped: CortenEngine) -> None:
    mapped.docker("exec", "box", "sh", "-c", "touch /kept && chown 7:8 /kept", check=True)
    mapped.docker("commit", "box", "kept:1", check=True)
    for how in ((), ("--userns", "host")):
        assert run(mapped, *how, "kept:1", "stat", "-c", "%u:%g", "/kept") == "7:8"
    exported = mapped.folder / "exported.tar"
    mapped.docker("export", "-o", str(exported), "box", check=True)
    with tarfile.open(exported) as archive:
        found = {member.name.strip("./"): (member.uid, member.gid) for member in archive}
    assert (found["kept"], found["bin"]) == ((7, 8), (0, 0))


def test_a_volume_is_the_mapped_roots_and_what_is_copied_into_it_keeps_its_owners(mapped: CortenEngine) -> None:
    assert run(mapped, "-v", "data:/home/user", IMAGE, "stat", "-c", "%u:%g", "/home/user/.keep") == "1000:1000"
    data = mapped.data_root / "volumes/data/_data"
    assert (data.stat().st_uid, (data / ".keep").stat().st_uid) == (FIRST, FIRST + 1000)
    run(mapped, "-v", "data:/v", IMAGE, "touch", "/v/new")
    assert (data / "new").stat().st_uid == FIRST
    assert run(mapped, "--userns", "host", "-v", "data:/v", IMAGE, "stat", "-c", "%u", "/v/new") == str(FIRST)


def test_binds_show_the_hosts_files_as_nobodys_unless_their_owners_are_mapped(mapped: CortenEngine) -> None:
    folder = mapped.folder / "bound"
    folder.mkdir(mode=0o755)
    where = f"type=bind,src={folder},dst=/b"
    assert (
        run(mapped, "--mount", where, IMAGE, "sh", "-c", "stat -c %u /b; touch /b/x 2>&1 || true").split()[0] == "65534"
    )
    assert not list(folder.iterdir())
    done = mapped.corten("run", "--rm", "--mount", f"{where},idmap=uids=0-0-1", IMAGE, "touch", "/b/x", check=True)
    assert done.stderr == ""
    assert (folder / "x").stat().st_uid == 0


def test_other_images_are_mounted_with_the_containers_ids(mapped: CortenEngine) -> None:
    assert run(mapped, "--mount", f"type=image,src={TOOLS},dst=/i", IMAGE, "stat", "-c", "%u", "/i/bin/set-id") == "0"


def test_the_hosts_users_are_had_by_word_alone(mapped: CortenEngine) -> None:
    assert uid_map(mapped, "--userns", "host") == "0 0 4294967295"
    assert uid_map(mapped, "--userns", "host", "--privileged", "--network", "host", "--pid", "host").startswith("0 0 ")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (
            ("--privileged",),
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode",
        ),
        (("--network", "host"), "cannot share the host's network namespace when user namespaces are enabled"),
        (("--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
        (("--runtime", "runc"), OTHER_RUNTIME),
        (("--ipc", "host"), "cannot share the host IPC namespace when user namespaces are enabled"),
    ],
)
def test_what_is_the_hosts_is_refused_to_mapped_containers(
    mapped: CortenEngine, option: tuple[str, ...], text: str
) -> None:
    done = mapped.docker("run", "--rm", *option, IMAGE, "true")
    assert done.returncode == 125
    assert f"Error response from daemon: {text}\n" in done.stderr


@pytest.mark.parametrize("kind", ["network", "pid", "ipc"])
def test_namespaces_are_joined_by_who_has_rights_over_them(mapped: CortenEngine, kind: str) -> None:
    assert uid_map(mapped, f"--{kind}", "container:box") == MAP
    assert uid_map(mapped, "--userns", "host", f"--{kind}", "container:box") == "0 0 4294967295"
    if kind != "ipc":  # that of `plain` is private
        done = mapped.docker("run", "--rm", f"--{kind}", "container:plain", IMAGE, "true")
        assert done.returncode == 125
        assert "its users are not mapped as this container's are" in done.stderr


def test_processes_are_shown_and_checks_are_done(mapped: CortenEngine) -> None:
    rows = mapped.docker("top", "box", "-o", "uid,pid", check=True).stdout.split()
    assert rows == ["UID", "PID", str(FIRST), str(pid_of(mapped, "box"))]
    assert mapped.docker("stats", "--no-stream", "--format", "{{.PIDs}}", "box", check=True).stdout == "1\n"
    health = ("--health-cmd", "test $(id -u) = 0", "--health-interval", "1s")
    run_on = ("run", "-d", "--name", "checked", *health, IMAGE, "sleep", "1000")
    mapped.docker(*run_on, check=True)
    shown = ("inspect", "-f", "{{.State.Health.Status}}", "checked")
    process.wait_for(lambda: mapped.docker(*shown, check=True).stdout == "healthy\n", "the check", timeout=60)
    mapped.docker("rm", "-f", "checked", check=True)


PRIVATE_ETC = 'mount -t tmpfs etc "$1" && cp -a /etc/. "$1" && mount --bind "$1" /etc && exec "$2" -c "$3"'
TWICE = (
    "from corten.daemon import remap; first = remap.load('default'); print(first.text, first == remap.load('default'))"
)


def test_default_makes_its_user_with_ranges_and_finds_him_the_next_time(tmp_path: Path) -> None:
    """In a copy of /etc that ends with its mount namespace."""
    words = ("sh", "-c", PRIVATE_ETC, "sh", str(tmp_path), sys.executable, TWICE)
    argv = ["unshare", "--mount", "--propagation", "private", *words]
    env = {**os.environ, "PYTHONPATH": str(paths.REPOSITORY / "src")}
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60, env=env)
    assert re.fullmatch(rf"0:\d+:{COUNT} True\n", done.stdout)
    assert "dockremap" not in Path("/etc/passwd").read_text()


def test_a_container_keeps_its_map_when_the_node_has_another_or_none() -> None:
    with RemappedEngine(config=SETTING) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("run", "-d", "--name", "kept", IMAGE, "sleep", "1000", check=True)
        show = ("exec", "kept", "cat", "/proc/self/uid_map")
        engine.config_file.write_text("{}")
        engine.restart()
        assert engine.docker(*show, check=True).stdout.split() == MAP.split()
        engine.docker("restart", "-t", "0", "kept", check=True)
        assert engine.docker(*show, check=True).stdout.split() == MAP.split()
        assert uid_map(engine) == "0 0 4294967295"
        assert "name=userns" not in engine.docker("info", "-f", "{{.SecurityOptions}}", check=True).stdout
