"""What CRIU is asked to restore, from where, and the mount points that are made for it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from corten.errors import CortenError, Internal, NotFound
from corten.runtime import args, criu, restore, restoreplace, restoring
from corten.runtime.protobuf import Message, data, number, text
from corten.spec.runtime import Config, Linux, Mount, Namespace

# tells what it was made with, each with /dev/null's descriptor when asked to, keeps what it was sent
CRIU = """\
#!{interpreter} -IS
import os, socket, sys
stream = socket.socket(fileno=int(sys.argv[2]))
stream.recv(65536)
for answer, with_fd in {answers!r}:
    fds = [os.open("/dev/null", os.O_RDONLY)] if with_fd else []
    socket.send_fds(stream, [bytes.fromhex(answer)], fds)
    stream.recv(65536)
"""


def note(script: str, pid: int) -> bytes:
    return number(1, criu.NOTIFY) + number(2, 1) + data(5, text(1, script) + number(2, pid))


def program(folder: Path, *answers: tuple[bytes, bool]) -> str:
    path = folder / "criu"
    path.write_text(CRIU.format(interpreter=sys.executable, answers=[(one.hex(), fd) for one, fd in answers]))
    path.chmod(0o755)
    return str(path)


def options(*words: str) -> args.Options:
    return args.parse(["corten-runtime", "restore", *words, "c"]).options


def config(*namespaces: Namespace, mounts: tuple[Mount, ...] = ()) -> Config:
    return Config("1.0.2", None, None, mounts=mounts, linux=Linux(namespaces=namespaces))


class Recorder(criu.Request):
    """A request that remembers its pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[str, str, str]] = []

    def pair(self, name: str, key: str, value: str) -> None:
        self.pairs.append((name, key, value))


# the conversation


def test_every_note_is_heard_with_its_process_and_its_descriptor(tmp_path: Path) -> None:
    heard = []

    def hear(script: str, pid: int, fd: int) -> None:
        heard.append((script, pid, os.readlink(f"/proc/self/fd/{fd}") if fd >= 0 else ""))
        if fd >= 0:
            os.close(fd)

    done = number(1, criu.RESTORE) + number(2, 1)
    path = program(tmp_path, (note("setup-namespaces", 7), False), (note("orphan-pts-master", 0), True), (done, False))
    with criu.Conversation(path) as talk:
        talk.ask(criu.RESTORE, criu.Request(), hear)
    assert heard == [("setup-namespaces", 7, ""), ("orphan-pts-master", 0, "/dev/null")]


def test_what_a_listener_raises_ends_the_conversation(tmp_path: Path) -> None:
    def refuse(script: str, pid: int, fd: int) -> None:
        raise NotFound(script)

    with pytest.raises(NotFound, match="x"), criu.Conversation(program(tmp_path, (note("x", 1), False))) as talk:
        talk.ask(criu.RESTORE, criu.Request(), refuse)
    with pytest.raises(ChildProcessError):
        os.waitpid(talk.pid, os.WNOHANG)


# the request


def test_pipes_of_the_first_life_are_replaced_by_ours(tmp_path: Path) -> None:
    path = tmp_path / "descriptors.json"
    path.write_text(json.dumps(["pipe:[7]", "/dev/pts/0", "pipe:[8]"]))
    assert restore.pipes_of(str(tmp_path)) == ["pipe:[7]", "", "pipe:[8]"]
    path.write_text(json.dumps(["pipe:[x]", "net:[4]", "extRootNetNS"]))
    assert restore.pipes_of(str(tmp_path)) == ["", "", ""]


@pytest.mark.parametrize("content", ["{}", '["a", "b", "c", "d"]', "[1]", "[", '[["pipe:[1]"]]'])
def test_descriptors_that_are_something_else_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "descriptors.json").write_text(content)
    with pytest.raises(CortenError, match="descriptors"):
        restore.pipes_of(str(tmp_path))


def test_images_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"open {tmp_path}/descriptors.json: no such file or directory"):
        restore.pipes_of(str(tmp_path))


def test_flags_of_the_command_line_become_options_of_criu(tmp_path: Path) -> None:
    (tmp_path / "descriptors.json").write_text('["", "pipe:[5]", "pipe:[5]"]')
    words = (
        "--image-path",
        str(tmp_path),
        "--work-path",
        f"{tmp_path}/work",
        "--shell-job",
        "--lsm-profile",
        "apparmor:x",
    )
    found = restore.images_of(options(*words), config(), sys.executable)
    assert (found.path, found.work) == (str(tmp_path), f"{tmp_path}/work")
    assert Path(found.work).is_dir()
    sent = Message(found.request.encoded())
    names = ("shell_job", "tcp_established", "rst_sibling", "notify_scripts", "manage_cgroups_mode", "empty_ns")
    assert [sent.number(criu.FIELDS[name]) for name in names] == [1, 0, 1, 1, 3, 0x40000000]
    assert sent.data(criu.FIELDS["lsm_profile"]) == b"apparmor:x"
    assert sent.data(criu.FIELDS["log_file"]) == b"restore.log"
    inherited = sent.message(criu.FIELDS["inherit_fd"])
    assert (inherited.data(1), inherited.number(2)) == (b"pipe:[5]", 2)


def test_namespaces_by_path_are_joined_or_inherited(tmp_path: Path) -> None:
    request = Recorder()
    names = [("network", "net"), ("pid", "pid"), ("ipc", "ipc"), ("uts", "uts")]
    rows = [Namespace(kind, f"/proc/self/ns/{name}") for kind, name in names]
    fds = restoring.join(request, config(*rows, Namespace("mount")))
    try:
        assert [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in fds] == ["net", "pid"]
    finally:
        for fd in fds:
            os.close(fd)
    assert request.pairs == [("join_ns", name, f"/proc/self/ns/{name}") for name in ("ipc", "uts")]


def test_what_is_not_the_containers_own_comes_from_the_host() -> None:
    request = Recorder()
    restoring.describe(request, config(mounts=(Mount("/x", "bind", "/y"),)), "/root", [["/real/x", "/y"]])
    assert ("ext_mnt", "/real/x", "/y") in request.pairs
    assert ("ext_mnt", "/dev/tty", "/dev/tty") in request.pairs


@pytest.mark.parametrize(
    ("made", "mode", "words"),
    [
        (config(mounts=(Mount("/x", "bind", "/y", ("idmap",)),)), "v2", "id-mapped mount at /x"),
        (Config("1.0.2", None, None, linux=Linux(net_devices={"eth0": ""})), "v2", "with network devices"),
        (config(Namespace("mount", "/proc/1/ns/mnt")), "v2", "into the mount namespace /proc/1/ns/mnt"),
        (config(Namespace("cgroup", "/proc/1/ns/cgroup")), "v2", "Do not know how to handle namespace NEWCGROUP"),
        (config(mounts=(Mount("/sys/fs/cgroup", "cgroup"),)), "v1", "sees the host's v1 cgroups"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(made: Config, mode: str, words: str) -> None:
    with pytest.raises(CortenError, match=words):
        restoring.check(made, mode)


def test_an_exec_into_a_container_with_new_clocks_will_join_them() -> None:
    given = json.dumps({"linux": {"namespaces": [{"type": "pid"}]}}).encode()
    assert restoring.with_clocks(given, os.getpid()) == given
    added = json.loads(restoring.with_time(given))
    assert added["linux"]["namespaces"] == [{"type": "pid"}, {"type": "time"}]
    assert restoring.with_time(json.dumps(added).encode()) == json.dumps(added).encode()


@pytest.mark.parametrize("given", [{}, {"linux": None}, {"linux": {}}, {"linux": {"namespaces": None}}])
def test_new_clocks_come_to_a_container_without_namespaces_of_its_own(given: dict[str, object]) -> None:
    added = json.loads(restoring.with_time(json.dumps(given).encode()))
    assert added == {"linux": {"namespaces": [{"type": "time"}]}}


# mount points


def test_a_point_is_made_beneath_the_root_whatever_its_links_say(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "up").symlink_to("../../../real")
    (root / "away").symlink_to("/real")
    root_fd = os.open(root, os.O_PATH)
    try:
        for path, is_directory in (("/up/a/b", True), ("/away/file", False), ("/../real/c", True), ("/", True)):
            os.close(restoreplace.make_point(root_fd, path, is_directory=is_directory))
    finally:
        os.close(root_fd)
    assert (root / "real/a/b").is_dir()
    assert (root / "real/file").is_file()
    assert (root / "real/c").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_points_of_new_mounts_are_made_and_what_is_below_a_tmpfs_is_left(tmp_path: Path) -> None:
    rows = (
        Mount("/dev", "tmpfs"),
        Mount("/dev/pts", "devpts"),
        Mount("/deep/proc", "proc"),
        Mount("/sys/cg", "cgroup"),
    )
    assert restoreplace.make_points(rows, str(tmp_path)) == []
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["deep", "deep/proc", "dev"]


def test_a_criu_whose_place_cannot_be_made_says_why(tmp_path: Path) -> None:
    place = restoreplace.Place((), f"{tmp_path}/none", str(tmp_path))
    try:
        with pytest.raises(Internal, match="nothing was told"):
            place.points()
    finally:
        place.close()
