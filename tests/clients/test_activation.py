"""cortend on a socket that somebody else holds, as systemd does: a client that comes too early waits."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from support import images, paths, peers, process
from support.dockerd import client_environment
from support.engine import CortenEngine

# as systemd: the socket becomes descriptor 3, and the variables name the process that takes it
HAND_OVER = (
    "import os, sys\n"
    "os.dup2(int(sys.argv[1]), 3) if sys.argv[1] != '3' else os.set_inheritable(3, True)\n"
    "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'cortend.socket'}\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Activated:
    """cortend of an engine, started on a listening socket."""

    def __init__(self, engine: CortenEngine, listener: socket.socket, manager: Path) -> None:
        argv = [*engine.netns.enter, sys.executable, "-c", HAND_OVER, str(listener.fileno())]
        argv += [*engine.argv, "--host", "fd://"]
        with engine.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                env=engine.environment | {"NOTIFY_SOCKET": str(manager)},
            )

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(60)


def client(path: Path) -> list[str]:
    """The docker CLI for a socket."""
    return [str(peers.docker_cli()), "-H", f"unix://{path}"]


def pid_of_box(path: Path) -> int:
    argv = [*client(path), "inspect", "-f", "{{.State.Pid}}", "box"]
    return int(subprocess.check_output(argv, timeout=60, env=client_environment()))


def test_a_client_waits_for_the_engine_and_containers_outlive_it() -> None:
    with (
        CortenEngine() as engine,
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        ExitStack() as ends,
    ):
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.stop()
        path, notify = engine.folder / "held", engine.folder / "notify"
        listener.bind(str(path))
        listener.listen()
        manager.bind(str(notify))
        manager.settimeout(30)
        early = subprocess.Popen(
            [*client(path), "run", "-d", "--name", "box", images.BUSYBOX_REF, "sleep", "1000"],
            stdout=subprocess.PIPE,
            env=client_environment(),
        )
        first = Activated(engine, listener, notify)
        ends.callback(first.stop)
        assert manager.recv(100) == b"READY=1"
        output, _ = early.communicate(timeout=60)
        assert (early.returncode, len(output.strip())) == (0, 64)
        pid = pid_of_box(path)
        first.reload()
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(100) == b"READY=1"
        assert first.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"
        assert path.exists(), "the socket is systemd's"
        second = Activated(engine, listener, notify)
        ends.callback(second.stop)
        assert pid_of_box(path) == pid
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"LISTEN_" not in environment
        assert process.is_alive(pid)
        assert second.stop() == 0
        engine.start()
        engine.docker("rm", "-f", "box", check=True)


def test_without_sockets_it_is_said_before_anything_is_made(tmp_path: Path) -> None:
    argv = [str(paths.COMMANDS / "cortend"), "--data-root", str(tmp_path / "d"), "--exec-root", str(tmp_path / "e")]
    done = subprocess.run([*argv, "-H", "fd://"], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "--host fd://: no sockets found via socket activation" in done.stderr
    assert list(tmp_path.iterdir()) == []
