"""A container of `support.guestbundle` whose process counts: whoever was restored goes on where it stood."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.guestbundle import Lab

STEP = "i=$((i+1)); echo $i >> /tmp/count; sleep 0.05"  # appended: a file that is emptied first may be read empty
COUNT = f"i=0; while true; do {STEP}; done"
PATIENCE_S = 60.0


def wait_until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Counter:
    """A container whose process counts in a variable and writes the number to a file."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.images = lab.folder / "images"
        self.file = lab.rootfs / "tmp/count"
        self.ends = os.pipe()
        self.configure()

    def close(self) -> None:
        """Removes the container, whosever it is."""
        for lab in (self.lab, self.lab.peer()):
            lab.__exit__()
        for fd in self.ends:
            os.close(fd)

    def configure(self) -> dict[str, Any]:
        """Writes config.json; gives it back for `lab.write`."""
        return self.lab.configure("sh", "-c", COUNT)

    def start(self) -> None:
        self.lab.detached("run", "-d", "c", stdout=self.ends[1])
        self.wait_for_more(0)

    def number(self) -> int:
        whole = self.file.read_text().split("\n")[:-1] if self.file.exists() else []
        return int(whole[-1]) if whole else 0

    def wait_for_more(self, than: int) -> int:
        wait_until(lambda: self.number() > than, f"no number above {than}: the process stands still")
        return self.number()

    def checkpoint(self, *words: str) -> str:
        """The verb; CRIU's log is in the error."""
        try:
            return self.lab.run("checkpoint", "--image-path", str(self.images), *words, "c")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs('dump.log')}") from error

    def stop(self, *words: str) -> int:
        """A checkpoint that ends the container; the number at which it stood."""
        self.checkpoint(*words)
        return self.number()

    def goes_on(self, number: int) -> int:
        """Waits for the next number; a process that began anew would start at 1."""
        wait_until(lambda: self.number() not in (0, number), "the process stands still")
        found = self.number()
        assert found > number, f"{found} after {number}: this is a new process"
        return found

    def restore(self, lab: Lab, *words: str, id: str = "c") -> None:
        """The verb, detached; CRIU's log is in the error."""
        try:
            lab.detached("restore", "-d", "--image-path", str(self.images), *words, id, stdout=self.ends[1])
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs('restore.log')}") from error

    def restore_with_runc(self) -> Lab:
        other = self.lab.peer()
        self.restore(other)
        return other

    def logs(self, name: str) -> str:
        return "\n".join(path.read_text()[-4000:] for path in self.lab.folder.glob(f"*/{name}"))


class ConsoleSocket:
    """Takes the master of a container's terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(PATIENCE_S)

    def take(self) -> int:
        """The master, the caller's."""
        stream, _ = self._listener.accept()
        with stream:
            stream.settimeout(PATIENCE_S)
            _, fds, _, _ = socket.recv_fds(stream, 4096, 1)
        assert len(fds) == 1, "no descriptor came"
        return fds[0]

    def close(self) -> None:
        self._listener.close()
        self.path.unlink()


def echo(master: int, word: str, answer: str = "") -> str:
    """What a shell with a terminal answers to `echo word`, up to the answer."""
    wanted = f"{answer or word}2".encode()
    os.write(master, f"echo {word}$((1+1))\n".encode())
    seen = b""
    os.set_blocking(master, False)
    deadline = time.monotonic() + PATIENCE_S
    while wanted not in seen:
        assert time.monotonic() < deadline, f"{word}: only {seen!r}"
        try:
            seen += os.read(master, 4096)
        except BlockingIOError:
            time.sleep(0.05)
    return seen.decode()


def processes(name: str) -> list[int]:
    """The machine's processes of a program."""
    found = subprocess.run(["pidof", name], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in found.split()]
