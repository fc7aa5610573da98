"""The socket of a container for sd_notify(3): made in a directory that the container sees."""

from __future__ import annotations

import os
import posix
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.errors import Unavailable
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
