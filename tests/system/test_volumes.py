"""Volumes of a whole engine: what they keep, who may remove them, what a crash leaves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import images, peers
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
DATA = "with-data:1"


@pytest.fixture(scope="module")
def node() -> Iterator[CortenEngine]:
    with CortenEngine(config={"runtimes": {"runc": {"path": str(peers.binary("runc"))}}}) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        load_data(engine)
        yield engine


@pytest.fixture(autouse=True)
def clean(node: CortenEngine) -> Iterator[None]:
    yield
    found = node.docker("ps", "-aq").stdout.split()
    if found:
        node.docker("rm", "-fv", *found, check=True)
    found = node.docker("volume", "ls", "-q").stdout.split()
    if found:
        node.docker("volume", "rm", *found, check=True)
    assert not mounts(node)
    assert [path.name for path in (node.data_root / "volumes").iterdir()] == []


def load_data(engine: CortenEngine) -> None:
    """An image with a volume that has an owner, modes, links and a file with a capability."""
    entries = (
        images.directory("data", 0o750),
        images.Entry("data/f", b"hello", mode=0o640, uid=5, gid=6),
        images.Entry("data/cap", b"x", mode=0o755, pax={"SCHILY.xattr.user.corten": "kept"}),
        images.symlink("data/l", "/etc/passwd"),
        images.symlink("way", "/data"),
        images.Entry("file", b""),
    )
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": {"/data": {}}}
    archive = images.docker_archive([DATA], [*images.busybox_layers(), images.layer(entries)], config)
    engine.docker("load", stdin=archive, check=True)


def mounts(engine: CortenEngine) -> list[str]:
    """What is mounted below the engine's volumes, in its namespace."""
    done = subprocess.run(
        ["nsenter", "-t", str(engine.pid), "-m", "cat", "/proc/self/mountinfo"], check=True, stdout=subprocess.PIPE
    )
    root = f"{engine.data_root}/volumes/"
    return [line.split()[4] for line in done.stdout.decode().splitlines() if root in line.split()[4]]


def run(engine: CortenEngine, *args: str) -> str:
    return engine.docker("run", "--rm", "--network", "none", *args, check=True).stdout


def names(engine: CortenEngine) -> list[str]:
    return engine.docker("volume", "ls", "-q", check=True).stdout.split()


def mounts_of(engine: CortenEngine, ref: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(engine.docker("inspect", ref, check=True).stdout)[0]["Mounts"]
    return found


def test_a_named_volume_outlives_its_containers(node: CortenEngine) -> None:
    run(node, "-v", "kept:/x", IMAGE, "sh", "-c", "echo hello > /x/f")
    assert run(node, "-v", "kept:/y:ro", IMAGE, "cat", "/y/f") == "hello\n"
    done = node.docker("run", "--rm", "-v", "kept:/y:ro", IMAGE, "touch", "/y/g")
    assert "Read-only file system" in done.stderr
    assert names(node) == ["kept"]


def test_anonymous_volumes_go_with_rm_v_and_with_rm_alone(node: CortenEngine) -> None:
    run(node, "-v", "/x", "-v", "named:/n", DATA, "true")
    assert names(node) == ["named"]
    node.docker("create", "--name", "one", "-v", "/x", DATA, check=True)
    assert len(names(node)) == 3
    node.docker("rm", "one", check=True)
    assert len(names(node)) == 3
    node.docker("create", "--name", "two", "-v", "/x", "-v", "named:/n", DATA, check=True)
    node.docker("rm", "-v", "two", check=True)
    assert len(names(node)) == 3
    shown = node.corten("volume", "prune", "--dry-run", check=True).stdout
    assert len(names(node)) == 3
    pruned = node.docker("volume", "prune", "-f", check=True).stdout
    assert shown == pruned.replace("Deleted Volumes", "Would delete Volumes").replace(
        "Total reclaimed space", "Total space that would be reclaimed"
    )
    assert len(pruned.splitlines()) == 5
    assert names(node) == ["named"]


def test_a_volume_in_use_stays(node: CortenEngine) -> None:
    made = node.docker("create", "-v", "busy:/x", IMAGE, check=True).stdout.strip()
    for force in ((), ("-f",)):
        done = node.docker("volume", "rm", *force, "busy")
        assert f"remove busy: volume is in use - [{made}]" in done.stderr
    assert node.docker("volume", "prune", "-af", check=True).stdout == "Total reclaimed space: 0B\n"


def test_what_the_image_has_is_copied_into_an_empty_volume(node: CortenEngine) -> None:
    look = "stat -c '%n %a %u %g %F' /data /data/* | sort; cat /data/f"
    expected = run(node, "--tmpfs", "/none", DATA, "sh", "-c", look)
    assert expected.splitlines() == [
        "/data 750 0 0 directory",
        "/data/cap 755 0 0 regular file",
        "/data/f 640 5 6 regular file",
        "/data/l 777 0 0 symbolic link",
        "hello",
    ]
    assert run(node, "-v", "copy:/data", DATA, "sh", "-c", look) == expected
    assert run(node, "-v", "copy:/data", IMAGE, "sh", "-c", look) == expected
    data = node.data_root / "volumes/copy/_data"
    assert os.getxattr(data / "cap", "user.corten") == b"kept"
    (data / "f").write_text("changed")
    assert run(node, "-v", "copy:/data", DATA, "cat", "/data/f") == "changed"


def test_copies_follow_links_in_the_image_and_nocopy_makes_none(node: CortenEngine) -> None:
    assert run(node, "-v", "linked:/way", DATA, "ls", "/way/").split() == ["cap", "f", "l"]
    assert run(node, "-v", "none:/data:nocopy", DATA, "ls", "/data") == ""
    option = "type=volume,src=none,dst=/data,volume-nocopy"
    assert run(node, "--mount", option, DATA, "ls", "/data") == ""
    assert run(node, "-v", "none:/data", DATA, "cat", "/data/f") == "hello"
    done = node.docker("create", "--name", "wrong", "-v", "none2:/file", DATA)
    assert "source /file is not directory" in done.stderr
    assert node.docker("ps", "-aq").stdout == ""
    assert names(node) == ["linked", "none"]


def test_a_volume_that_a_container_has_is_filled_in_its_sight(node: CortenEngine) -> None:
    node.docker("run", "-d", "--name", "has", "-v", "seen:/x", IMAGE, "sleep", "100", check=True)
    node.docker("create", "-v", "seen:/data", DATA, check=True)
    assert node.docker("exec", "has", "cat", "/x/f", check=True).stdout == "hello"


def test_subpaths(node: CortenEngine) -> None:
    script = "mkdir -p /v/a/b; echo in > /v/a/b/f; ln -s a/b /v/in; ln -s /etc /v/out; echo file > /v/file"
    run(node, "-v", "subs:/v", IMAGE, "sh", "-c", script)

    def mount(subpath: str, more: str = "") -> tuple[str, ...]:
        return ("--mount", f"type=volume,src=subs,dst=/x,volume-subpath={subpath}{more}")

    assert run(node, *mount("a/b"), IMAGE, "cat", "/x/f") == "in\n"
    assert run(node, *mount("in"), IMAGE, "cat", "/x/f") == "in\n"
    assert run(node, *mount("file"), IMAGE, "cat", "/x") == "file\n"
    run(node, *mount("a/b"), IMAGE, "touch", "/x/made")
    assert (node.data_root / "volumes/subs/_data/a/b/made").exists()
    for subpath, words in (("out", "escapes the base directory"), ("nope", "no such file or directory")):
        assert words in node.docker("run", "--rm", *mount(subpath), IMAGE, "true").stderr
    done = node.docker("run", "--rm", *mount("a/b", ",readonly"), IMAGE, "touch", "/x/y")
    assert "Read-only file system" in done.stderr
    node.docker("run", "-d", "--name", "again", *mount("a/b"), IMAGE, "sleep", "100", check=True)
    node.docker("restart", "-t", "0", "again", check=True)
    assert node.docker("exec", "again", "cat", "/x/f", check=True).stdout == "in\n"
    assert run(node, "--runtime", "runc", *mount("a/b"), "-v", "subs:/v", IMAGE, "cat", "/x/f", "/v/in/f") == "in\nin\n"
    assert list((node.exec_root / "tasks/subpaths").iterdir()) == []


def test_volumes_from_another_container(node: CortenEngine) -> None:
    node.docker("create", "--name", "lender", "-v", "named:/n", "-v", "/etc:/host:ro", DATA, check=True)
    script = "cat /data/f; ls /host/passwd; touch /n/x && echo wrote; touch /host/x 2>/dev/null || echo kept"
    assert run(node, "--volumes-from", "lender", IMAGE, "sh", "-c", script).split() == [
        "hello/host/passwd", "wrote", "kept",
    ]  # fmt: skip
    done = node.docker("run", "--name", "borrower", "--volumes-from", "lender:ro", IMAGE, "touch", "/n/y")
    assert "Read-only file system" in done.stderr
    assert {(one["Destination"], one["RW"]) for one in mounts_of(node, "borrower")} == {
        ("/n", False), ("/data", False), ("/host", False),
    }  # fmt: skip
    node.docker("rm", "-v", "lender", check=True)
    assert len(names(node)) == 2
    node.docker("rm", "-v", "borrower", check=True)
    assert names(node) == ["named"]


def test_driver_options_are_mounted_while_somebody_runs(node: CortenEngine) -> None:
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=7")
    node.docker("volume", "create", *options, "memory", check=True)
    assert "size=1024k" in run(node, "-v", "memory:/m", IMAGE, "grep", " /m ", "/proc/mounts")
    until_unmounted(node)
    for name in ("aa", "bb"):
        node.docker("run", "-d", "--name", name, "-v", "memory:/m", IMAGE, "sleep", "100", check=True)
    node.docker("exec", "aa", "touch", "/m/shared", check=True)
    node.docker("exec", "bb", "ls", "/m/shared", check=True)
    node.docker("rm", "-f", "aa", check=True)
    node.docker("exec", "bb", "ls", "/m/shared", check=True)
    assert len(mounts(node)) == 1
    node.kill9()
    node.start()
    assert len(mounts(node)) == 1
    node.docker("rm", "-f", "bb", check=True)
    until_unmounted(node)


def until_unmounted(engine: CortenEngine) -> None:
    deadline = time.monotonic() + 60
    while mounts(engine):
        assert time.monotonic() < deadline, mounts(engine)
        time.sleep(0.02)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A loop device with an ext4, and `f` in it."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_text("of the device")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", tmp_path / "disk", "8M"], check=True)
    argv = ["losetup", "--find", "--show", str(tmp_path / "disk")]
    name = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    yield name
    subprocess.run(["losetup", "--detach", name], check=True)


def on_device(device: str, kind: str = "ext4") -> tuple[str, ...]:
    return ("volume", "create", "--opt", f"type={kind}", "--opt", f"device={device}")


def test_a_device_is_mounted_while_somebody_runs(node: CortenEngine, device: str) -> None:
    node.docker(*on_device(device), "disk", check=True)
    assert not mounts(node)
    for name in ("aa", "bb"):
        node.docker("run", "-d", "--name", name, "-v", "disk:/d", IMAGE, "sleep", "100", check=True)
    node.docker("exec", "aa", "sh", "-c", "cat /d/f > /d/g", check=True)
    assert len(mounts(node)) == 1
    node.docker("rm", "-f", "aa", check=True)
    assert node.docker("exec", "bb", "cat", "/d/g", check=True).stdout == "of the device"
    node.docker("rm", "-f", "bb", check=True)
    until_unmounted(node)


def test_a_device_that_a_killed_engine_has_mounted_is_unmounted_by_the_next(node: CortenEngine, device: str) -> None:
    """Killed after the mount, before the container ran."""
    node.docker(*on_device(device), "disk", check=True)
    node.kill9()
    subprocess.run(["mount", "-t", "ext4", device, node.data_root / "volumes/disk/_data"], check=True)
    node.start()
    assert not mounts(node)
    assert run(node, "-v", "disk:/d", IMAGE, "cat", "/d/f") == "of the device"
    until_unmounted(node)


def test_what_is_wrong_with_a_device_is_told_in_dockerds_words(node: CortenEngine, device: str) -> None:
    for name, options, words in (
        ("xfs", on_device(device, "xfs"), f"mount {device}:PLACE: invalid argument"),
        ("none", on_device(device, "nope"), f"mount {device}:PLACE: no such device"),
        ("gone", on_device("/dev/nowhere"), "mount /dev/nowhere:PLACE: no such file or directory"),
        (
            "word",
            (*on_device(device), "--opt", "o=ro,odd"),
            f"mount {device}:PLACE, flags: 0x1, data: odd: invalid argument",
        ),
    ):
        node.docker(*options, name, check=True)
        done = node.docker("run", "--rm", "-v", f"{name}:/x", IMAGE, "true")
        place = f"{node.data_root}/volumes/{name}/_data"
        told = f"error while mounting volume '{place}': failed to mount local volume: {words.replace('PLACE', place)}"
        assert told in done.stderr
    assert not mounts(node)


def test_a_device_that_is_not_there_is_told(node: CortenEngine) -> None:
    options = ("--opt", "type=none", "--opt", "o=bind", "--opt", "device=/nonexistent")
    node.docker("volume", "create", *options, "wrong", check=True)
    done = node.docker("run", "--rm", "-v", "wrong:/x:nocopy", IMAGE, "true")
    assert "failed to mount local volume: mount /nonexistent:" in done.stderr
    assert "flags: 0x1000: no such file or directory" in done.stderr


def test_a_read_only_bind_volume(node: CortenEngine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("of the host")
    options = ("--opt", "type=none", "--opt", "o=bind,ro", "--opt", f"device={tmp_path}")
    node.docker("volume", "create", *options, "host", check=True)
    assert run(node, "-v", "host:/x", IMAGE, "cat", "/x/f") == "of the host"
    assert "Read-only" in node.docker("run", "--rm", "-v", "host:/x", IMAGE, "touch", "/x/g").stderr
    until_unmounted(node)
    node.docker("volume", "rm", "host", check=True)
    assert (tmp_path / "f").read_text() == "of the host"


def test_sizes_and_links_in_df(node: CortenEngine) -> None:
    node.docker(
        "run", "--name", "user", "-v", "sized:/x", IMAGE, "sh", "-c", "head -c 12345 /dev/zero > /x/f", check=True
    )
    lines = node.docker("system", "df", "-v", check=True).stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("sized")] == [["sized", "1", "12.35kB"]]
    total = next(line for line in node.docker("system", "df", check=True).stdout.splitlines() if "Volumes" in line)
    assert total.split()[2:] == ["1", "1", "12.35kB", "0B", "(0%)"]


def test_events_tell_of_volumes(node: CortenEngine) -> None:
    run(node, "--name", "told", "-v", "evented:/x:ro", "-v", "/anon", IMAGE, "true")
    node.docker("volume", "rm", "evented", check=True)
    time.sleep(1.1)  # the client asks in whole seconds
    shown = node.docker(
        "events", "--since", "60s", "--until", "0s", "--filter", "volume=evented", "--format", "{{.Action}}"
    )
    assert shown.stdout.split()[-4:] == ["create", "mount", "unmount", "destroy"]


def test_corten_volume_says_what_docker_volume_says(node: CortenEngine) -> None:
    node.corten("volume", "create", "--label", "a=b", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "one", check=True)
    node.corten("volume", "create", "two", check=True)
    for words in (
        ("ls", "-f", "label=a"),
        ("ls", "-f", "dangling=maybe"),
        ("ls", "--format", '{{.Name}} {{.Driver}} {{.Labels}} {{.Label "a"}} {{.Mountpoint}} {{.Links}} {{.Size}}'),
        ("ls", "--format", "table {{.Name}}\t{{.Scope}}\t{{.Availability}}"),
        ("inspect", "one", "two"),
        ("inspect", "-f", "{{.Options.type}} {{.Labels.a}}", "one"),
        ("rm", "nope", "nope2"),
        ("create", "x"),
        ("prune", "-f"),
    ):
        ours, theirs = node.corten("volume", *words), node.docker("volume", *words)
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr), words
    assert node.corten("volume", "rm", "one", "two", check=True).stdout == "one\ntwo\n"


def test_owners_of_binds_and_volumes_are_mapped(node: CortenEngine, tmp_path: Path) -> None:
    """Corten's own: `idmap`."""
    (tmp_path / "f").write_text("x")
    os.chown(tmp_path / "f", 1000, 1001)
    os.chown(tmp_path, 1000, 1001)
    option = f"type=bind,src={tmp_path},dst=/x,idmap=uids=1000-0-1;gids=1001-0-1"
    done = node.corten("run", "--rm", "--mount", option, IMAGE, "sh", "-c", "stat -c '%u %g' /x/f; touch /x/made")
    assert (done.returncode, done.stdout) == (0, "0 0\n"), done.stderr
    made = os.stat(tmp_path / "made")
    assert (made.st_uid, made.st_gid) == (1000, 1001)
    run(node, "-v", "owned:/v", IMAGE, "sh", "-c", "touch /v/f; chown 7:7 /v /v/f")
    option = "type=volume,src=owned,dst=/v,idmap=uids=7-0-1"
    done = node.corten("run", "--rm", "--mount", option, IMAGE, "stat", "-c", "%u %g", "/v/f")
    assert done.stdout == "0 0\n", done.stderr
    done = node.corten("run", "--rm", "--mount", "type=bind,src=/tmp,dst=/x,idmap=uids=1-2", IMAGE, "true")
    assert "invalid idmap: 'uids=1-2'" in done.stderr


def test_images_are_mounted_in_containers_of_others(node: CortenEngine) -> None:
    """`--mount type=image` of Docker 28."""
    whole, part = f"type=image,src={DATA},dst=/x", f"type=image,src={DATA},dst=/y,image-subpath=data"
    mounts = ("--mount", whole, "--mount", part)
    assert run(node, *mounts, IMAGE, "sh", "-c", "cat /x/data/f /y/f; ls /x/bin | head -1") == "hellohello[\n"
    for path in ("/x/new", "/y/f"):
        assert "Read-only" in node.docker("run", "--rm", *mounts, IMAGE, "touch", path).stderr
    made = node.docker("create", "--name", "with", *mounts, IMAGE, "cat", "/y/f", check=True).stdout.strip()
    assert [(one["Type"], one["Name"], one["RW"]) for one in mounts_of(node, "with")] == [("image", DATA, False)] * 2
    refused = node.docker("rmi", DATA)
    assert f"container {made[:12]} is using" in refused.stderr
    assert node.docker("start", "-a", "with", check=True).stdout == "hello"
    for wrong, words in (
        ("type=image,src=nope:1,dst=/x", "No such image: nope:1"),
        (f"type=image,src={DATA},dst=/x,image-subpath=../x", "subpath must be a relative path"),
        (f"type=image,src={DATA},dst=/x,image-subpath=nope", "no such file or directory"),
    ):
        assert words in node.docker("run", "--rm", "--mount", wrong, IMAGE, "true").stderr
    assert list((node.exec_root / "tasks/subpaths").iterdir()) == []


def test_the_end_of_an_engine_leaves_what_its_volumes_had_mounted(tmp_path: Path, device: str) -> None:
    (tmp_path / "f").write_text("of the host")
    engine = CortenEngine()
    try:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        options = ("--opt", "type=none", "--opt", "o=bind", "--opt", f"device={tmp_path}")
        engine.docker("volume", "create", *options, "host", check=True)
        engine.docker(*on_device(device), "disk", check=True)
        engine.docker("run", "-d", "-v", "host:/x", "-v", "disk:/d", IMAGE, "sleep", "100", check=True)
        assert len(mounts(engine)) == 2
        engine.kill9()
    finally:
        assert engine.destroy() == []
    assert (tmp_path / "f").read_text() == "of the host"
    (tmp_path / "look").mkdir()
    subprocess.run(["mount", "-o", "ro", device, tmp_path / "look"], check=True)
    try:
        assert (tmp_path / "look/f").read_text() == "of the device"
    finally:
        subprocess.run(["umount", tmp_path / "look"], check=True)
