"""Hostile account files and users: digits, big numbers, other kinds of files in place of /etc/passwd and /etc/group.

CVE-2016-3697, 2022-36109, 2024-40635, 2026-46680, 2026-47262; nothing of the container's is loaded on the host's side
(2019-14271).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.engine.users import Accounts, lookup, read_accounts
from corten.sys.inotify import Watch
from support import images, process, weakened_corten
from support.engine import CortenEngine

IN_OPEN = 0x20
EVIL_LINE = "evil:x:7:7::/:/bin/sh"
BIG_GROUP = b"".join(b"g%d:x:%d:" % (number, number) + b"m," * 400 + b"\n" for number in range(20_000))
Read = Callable[[int], Accounts]


def opened(root: Path, read: Read) -> tuple[bool, object]:
    """(whether /etc/passwd of a root was opened for more than a look, what was read)."""
    watch = Watch(str(root / "etc"), IN_OPEN)
    root_fd = os.open(root, os.O_PATH)
    try:
        found = read(root_fd)
        try:
            names = os.read(watch.fileno(), 4096)
        except BlockingIOError:
            names = b""
        return b"passwd" in names, found
    finally:
        os.close(root_fd)
        watch.close()


@pytest.fixture
def device_root(tmp_path: Path) -> Path:
    """A root whose /etc/passwd is a device: to open a watchdog starts it, to open a tape moves it."""
    (tmp_path / "etc").mkdir()
    os.mknod(tmp_path / "etc/passwd", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return tmp_path


def test_a_device_in_place_of_passwd_is_not_opened(device_root: Path) -> None:
    assert opened(device_root, read_accounts) == (False, Accounts(b"", b""))


def test_twin_without_the_look_at_its_kind_it_is_opened(device_root: Path) -> None:
    with weakened_corten.build(*weakened_corten.ANY_ACCOUNTS) as weak:
        (users,) = weak.modules("corten.engine.users")
        assert opened(device_root, users.read_accounts)[0]


def user_from_proc(engine: CortenEngine) -> str:
    """Who an exec is whose user is named in a file of the kernel alone, which the image has as its /etc/passwd."""
    layers = [*images.busybox_layers(), images.layer([images.symlink("etc/passwd", "/proc/1/environ")])]
    config = {"Cmd": ["sleep", "1000"], "Env": ["PATH=/bin", f"A=x\n{EVIL_LINE}\n"]}
    engine.docker("load", stdin=images.docker_archive(["environ:1"], layers, config), check=True)
    engine.docker("run", "-d", "--name", "environ", "environ:1", check=True)
    try:
        return engine.docker("exec", "-u", "evil", "environ", "id", "-u").stdout
    finally:
        engine.docker("rm", "-f", "environ", check=True)


def test_a_file_of_the_kernel_is_no_passwd(shared_engine: CortenEngine) -> None:
    """To read one may be to take it away: /proc/kmsg."""
    assert "unable to find user evil" in user_from_proc(shared_engine)


def test_twin_without_the_look_at_its_size_it_is_read() -> None:
    with weakened_corten.build(*weakened_corten.ANY_ACCOUNTS) as weak, CortenEngine(commands=weak.commands) as engine:
        assert user_from_proc(engine) == "7\n"


# Users of images: what a number and a name come to.

HOSTILE_PASSWD = b"root:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/:\n4294967296:x:0:0::/:\nuser:x:1000:1000::/:\n"


@pytest.fixture(scope="module")
def hostile_users(shared_engine: CortenEngine) -> Iterator[Callable[..., Any]]:
    """`docker run -u USER` in an image whose passwd has names of digits, and a group file of 16 MB."""
    entries = [images.Entry("etc/passwd", HOSTILE_PASSWD), images.Entry("etc/group", BIG_GROUP + b"user:x:1000:\n")]
    layers = [*images.busybox_layers(), images.layer(entries)]
    shared_engine.docker("load", stdin=images.docker_archive(["users:1"], layers, {"Cmd": ["sh"]}), check=True)

    def run(user: str, *options: str) -> Any:
        return shared_engine.docker("run", "--rm", "--network", "none", "-u", user, *options, "users:1", "id", "-u")

    yield run
    shared_engine.docker("rmi", "-f", "users:1", check=True)


def test_digits_are_a_number_although_passwd_has_such_a_name(hostile_users: Callable[..., Any]) -> None:
    assert hostile_users("1000").stdout == "1000\n"


@pytest.mark.parametrize(
    "user", ["4294967296", "4294967295", "2147483648", "-1", "18446744073709551616", "0:4294967296"]
)
def test_a_number_too_large_is_refused_and_never_root(hostile_users: Callable[..., Any], user: str) -> None:
    done = hostile_users(user)
    assert (done.returncode, done.stdout) == (125, ""), done
    assert "uids and gids must be in range" in done.stderr


def test_a_huge_group_file_costs_the_engine_little(
    hostile_users: Callable[..., Any], shared_engine: CortenEngine
) -> None:
    before = resident(shared_engine.pid)
    began = time.monotonic()
    assert hostile_users("user", "--group-add", "42").stdout == "1000\n"
    assert time.monotonic() - began < 10
    assert resident(shared_engine.pid) - before < 64 << 20


def test_a_hostile_group_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_bytes(BIG_GROUP)
    root_fd = os.open(tmp_path, os.O_PATH)
    try:
        assert len(read_accounts(root_fd).group) == 1 << 20
    finally:
        os.close(root_fd)


def test_groups_are_those_of_the_user_and_root_s_are_not_kept(shared_engine: CortenEngine) -> None:
    """CVE-2022-36109, 2022-2989: with a group of its own a user has that one, and never the engine's."""
    run = ("run", "--rm", "--network", "none", images.BUSYBOX_REF, "grep", "Groups", "/proc/self/status")
    for options, groups in ((("-u", "1000:50"), "50"), (("-u", "user"), "29 50 1000"), (("-u", "1234"), "0")):
        done = shared_engine.docker(*run[:2], *options, *run[2:], check=True)
        assert sorted(done.stdout.split()[1:], key=int) == groups.split()


def test_names_are_looked_up_in_the_container_alone(shared_engine: CortenEngine) -> None:
    """daemon and sys are accounts of the host: nothing of its name service is asked (D8)."""
    done = shared_engine.docker("run", "--rm", "-u", "daemon", images.BUSYBOX_REF, "id")
    assert "unable to find user daemon: no matching entries in passwd file" in done.stderr
    assert lookup("user", Accounts(HOSTILE_PASSWD, b"")).uid == 1000


FIFOS = {"fifo": "mkfifo", "directory": "mkdir", "link to a fifo": "mkfifo /fifo; ln -s /fifo"}


@pytest.mark.parametrize("kind", FIFOS)
def test_exec_with_another_kind_of_passwd_does_not_hang(shared_engine: CortenEngine, kind: str) -> None:
    name = f"kind-{os.urandom(3).hex()}"
    script = f"rm /etc/passwd /etc/group; {FIFOS[kind]} /etc/passwd; touch /ready; sleep 1000"
    shared_engine.docker(
        "run", "-d", "--name", name, "--network", "none", images.BUSYBOX_REF, "sh", "-c", script, check=True
    )
    try:
        process.wait_for(lambda: shared_engine.docker("exec", name, "ls", "/ready").returncode == 0, "the script")
        number = shared_engine.docker("exec", "-u", "5", name, "grep", "Uid", "/proc/self/status", timeout=20)
        assert number.stdout.split() == ["Uid:", "5", "5", "5", "5"], number
        named = shared_engine.docker("exec", "-u", "user", name, "true", timeout=20)
        assert "unable to find user user" in named.stdout + named.stderr
    finally:
        shared_engine.docker("rm", "-f", name, check=True)


def resident(pid: int) -> int:
    """Bytes in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
