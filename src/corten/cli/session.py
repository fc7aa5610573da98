"""What every command gets: a client of the engine, which is started when the default socket does not answer."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from corten import errors
from corten.cli.transport import Client, ConnectFailed, connect

if TYPE_CHECKING:
    from corten.cli.tunnel import Tls

_START_WAIT_S = 10.0
SYSTEMD = "/run/systemd/system"  # sd_booted(3)
UNITS = tuple(
    f"{folder}/systemd/system/cortend.socket" for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)


def is_systemds() -> bool:
    """Whether it is for systemd to start the engine of the default socket: a second one would not be its service."""
    return os.path.isdir(SYSTEMD) and any(map(os.path.exists, UNITS))


class Session:
    """One invocation of the command line."""

    def __init__(self, host: str, *, is_default: bool, config_folder: str = "") -> None:
        self.host = host
        self.tls: Tls | None = None
        self.context = ""  # the name in use: corten.cli.contextchoice
        self.is_host_given = False  # by --host
        self._config_folder = config_folder
        self.is_default = is_default
        self._client: Client | None = None

    @property
    def config_folder(self) -> str:
        """Where config.json lies: `--config`, else `DOCKER_CONFIG`, else ~/.docker."""
        return self._config_folder or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")

    @property
    def client(self) -> Client:
        """The client; starts `cortend` on first use if the default socket is dead, and says so."""
        if self._client is None:
            if self.is_default:
                self._ensure_engine()
            self._client = self.plain_client
        return self._client

    @property
    def plain_client(self) -> Client:
        """A new client, also of an engine that does not answer."""
        return Client(self.host, self.tls)

    def _ensure_engine(self) -> None:
        try:
            connect(self.host).close()
        except ConnectFailed as error:
            if os.geteuid() != 0:
                raise
            if is_systemds():
                raise ConnectFailed(f"{error.text} `systemctl start cortend.socket` makes it so") from error
            self._start_engine()

    def _start_engine(self) -> None:
        """Starts `cortend` beside this program, detached, logging to /var/log, and waits until it answers."""
        import subprocess

        program = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "cortend")
        log = "/var/log/cortend.log"
        print(f"corten: no engine answers at {self.host}: starting {program} (log: {log})", file=sys.stderr)
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [program], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        deadline = time.monotonic() + _START_WAIT_S
        while time.monotonic() < deadline:
            try:
                connect(self.host).close()
                return
            except ConnectFailed:
                if process.poll() is not None:
                    break
                time.sleep(0.02)
        raise errors.Unavailable(f"cortend did not start: see {log}")


pass_session = click.make_pass_decorator(Session)
