"""The socket of a container for sd_notify(3): made in a directory that the container sees."""

from __future__ import annotations

import os
import posix
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from corten.errors import Unavailable
from corten.runtime import notify as notify_module
from corten.runtime.notify import Notify


@pytest.fixture
def notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notify]:
    monkeypatch.setitem(posix.environ, b"NOTIFY_SOCKET", b"/run/nobody")
    made = Notify()
    made.make_directory(str(tmp_path))
    yield made
    made.close()


def test_every_user_may_write_to_the_socket_and_no_mode_is_changed_by_its_path(
    notify: Notify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that may write the directory could have put a link to a file of the host's in the socket's place."""

    def chmod(path: str, mode: int) -> None:
        raise AssertionError(f"chmod {path}")

    monkeypatch.setattr(posix, "chmod", chmod)
    before = os.umask(0o077)
    try:
        assert notify.bind(str(tmp_path))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert (tmp_path / "notify/notify.sock").stat().st_mode & 0o777 == 0o777


def test_a_socket_that_cannot_be_bound_is_named(notify: Notify, tmp_path: Path) -> None:
    (tmp_path / "notify/notify.sock").symlink_to("/etc/passwd")
    with pytest.raises(Unavailable, match=rf"^notify socket {tmp_path}/notify/notify\.sock: address already in use$"):
        notify.bind(str(tmp_path))


def test_a_container_that_was_created_without_one_gets_none(notify: Notify, tmp_path: Path) -> None:
    assert not notify.bind(str(tmp_path / "other"))


@pytest.mark.timeout(40)
def test_a_manager_that_reads_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify_module, "TIMEOUT_S", 1)
    monkeypatch.setitem(posix.environ, b"NOTIFY_SOCKET", str(tmp_path / "manager").encode())
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        manager.bind(str(tmp_path / "manager"))
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"STATUS=busy", str(tmp_path / "manager"))
        telling = Notify()
        try:
            with pytest.raises(Unavailable, match=r"^notify socket .*/manager: resource temporarily unavailable$"):
                telling._tell(b"READY=1", 7)
        finally:
            telling.close()
