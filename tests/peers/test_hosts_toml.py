"""hosts.toml as containerd 1.7 reads it: ctr and cortend ask the same servers for the same, in the same order."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from support.containerd import Containerd
from support.engine import CortenEngine
from support.httpthread import HttpThread

REFERENCE = "reg.example:5000/quarry/stone:1"

Asked = tuple[str, str]


class _Nothing(BaseHTTPRequestHandler):
    owner: Recorder

    def do_HEAD(self) -> None:
        if self.command == "HEAD":  # where that fails Corten asks again by GET, as dockerd does and ctr does not
            self.owner.asked.append((self.path, self.headers.get("X-Quarry", "")))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: object) -> None:
        pass


class Recorder(HttpThread):
    """Servers that have nothing, told apart by their paths; `asked` is (path, X-Quarry) of each HEAD."""

    def __init__(self, **settings: Any) -> None:
        self.asked: list[Asked] = []
        super().__init__(_Nothing, **settings)


@dataclass(frozen=True)
class Both:
    """containerd and cortend in one network namespace."""

    containerd: Containerd
    engine: CortenEngine
    recorder: Recorder

    def asked(self, folder: str, text: str) -> tuple[list[Asked], list[Asked]]:
        """What ctr asked for, and what cortend did, with this hosts.toml in the folder of that name."""
        certs = self.engine.folder / "certs.d"
        subprocess.run(["rm", "-rf", str(certs)], check=True)
        (certs / folder).mkdir(parents=True)
        (certs / folder / "hosts.toml").write_text(text.replace("SERVER", self.recorder.url))
        ctr = self.containerd.argv("images", "pull", "--hosts-dir", str(certs), REFERENCE)
        argv = [*self.engine.netns.enter, *ctr]
        subprocess.run(argv, check=False, capture_output=True, timeout=60, env=self.containerd.env)
        theirs = self._taken()
        self.engine.docker("pull", "-q", REFERENCE)
        return theirs, self._taken()

    def _taken(self) -> list[Asked]:
        found = [*self.recorder.asked]
        self.recorder.asked.clear()
        return found


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with ExitStack() as stack:
        engine = stack.enter_context(CortenEngine())
        containerd = Containerd("1.7", "trixie", engine.netns.enter)
        stack.callback(containerd.close)
        yield Both(containerd, engine, stack.enter_context(Recorder(netns=engine.netns)))


FILES = {
    "order": """
server = "SERVER/last"
[host."SERVER/one"]
  capabilities = ["pull", "resolve"]
[host."SERVER/a-two"]
""",
    "no-resolve": """
server = "SERVER/last"
[host."SERVER/one"]
  capabilities = ["pull"]
[host."SERVER/two"]
  capabilities = ["push"]
""",
    "paths": """
server = "SERVER/last/v2"
[host."SERVER/sub/v2"]
[host."SERVER/sub/../other/"]
[host."SERVER/whole/root"]
  override_path = true
""",
    "headers": """
server = "SERVER/last"
[header]
  x-quarry = "of the server"
[host."SERVER/one"]
  [host."SERVER/one".header]
    X-Quarry = "of the host"
""",
    "server-capabilities": """
server = "SERVER/last"
capabilities = ["push"]
[host."SERVER/one"]
""",
}


@pytest.mark.parametrize("folder", ["reg.example:5000", "reg.example_5000_", "_default"])
def test_a_registrys_folder_has_the_names_that_containerd_knows(both: Both, folder: str) -> None:
    theirs, ours = both.asked(folder, FILES["order"])
    assert theirs
    assert ours == theirs


@pytest.mark.parametrize("name", FILES)
def test_the_same_servers_are_asked(both: Both, name: str) -> None:
    theirs, ours = both.asked("reg.example:5000", FILES[name])
    assert theirs
    assert ours == theirs
