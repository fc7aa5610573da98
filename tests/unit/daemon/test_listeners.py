"""The engine's sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from corten.cli.transport import connect
from corten.daemon.listeners import listen
from corten.errors import Conflict


@pytest.mark.parametrize("host", ["tcp://:0", "tcp://[]:0"])
def test_a_host_without_an_address_listens_on_this_machine_alone(host: str) -> None:
    with listen(host) as listener:
        address, port = listener.getsockname()
        assert address.startswith("127.")
        connect(f"tcp://:{port}").close()


def test_a_socket_appears_when_it_answers_and_with_its_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corten.sock"
    listens = socket.socket.listen
    seen: list[tuple[bool, int]] = []

    def observed(self: socket.socket, backlog: int) -> None:
        new = stat.S_IMODE(os.stat(f"{path}.new").st_mode)
        seen.append((path.exists(), new))
        listens(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", observed)
    with listen(f"unix://{path}", group=str(os.getgid())):
        assert seen == [(False, 0o660)]
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        connect(f"unix://{path}").close()
        with pytest.raises(Conflict, match="served by another process"):
            listen(f"unix://{path}")
        connect(f"unix://{path}").close()


def test_a_socket_takes_the_place_of_one_whose_server_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "corten.sock"
    for name in (path, f"{path}.new"):  # the second: a start was killed
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(name))
    with listen(f"unix://{path}"):
        connect(f"unix://{path}").close()
    assert os.listdir(tmp_path) == ["corten.sock"]


def test_what_cannot_be_replaced_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "corten.sock").mkdir()
    with pytest.raises(IsADirectoryError):
        listen(f"unix://{tmp_path}/corten.sock")
    assert os.listdir(tmp_path) == ["corten.sock"]
