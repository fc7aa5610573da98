"""What a shim is asked for, as values, and the fields that they become in a message (docs/shim.md)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corten.shim.protocol import Message


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Where output is kept.  `max_size` in bytes, -1 for no limit; `attributes` are the labels and env of log-opts.

    `courier`: where it is sent besides, in the words of corten.shim.courier; None for nowhere.
    """

    path: str = ""
    driver: str = "json-file"
    max_size: int = -1
    max_files: int = 1
    compress: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    courier: Mapping[str, Any] | None = None

    def to_message(self) -> Message:
        """The field `log` of the op `create`."""
        return {
            "path": self.path,
            "driver": self.driver,
            "opts": {"max-size": self.max_size, "max-file": self.max_files, "compress": self.compress},
            "attrs": dict(self.attributes),
            **({"courier": dict(self.courier)} if self.courier is not None else {}),
        }


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a shim needs to make its container; config.json lies in its directory already.

    rootfs        the snapshotter's mounts: [{"type", "source", "options"}], empty for `root.path` of the bundle
    runtime_path  '' for the built-in runtime
    console_size  (rows, columns), None to leave it
    health        the check that the shim does, as docs/shim.md has it; empty for none
    """

    rootfs: Sequence[Mapping[str, Any]] = ()
    terminal: bool = False
    stdin_open: bool = False
    console_size: tuple[int, int] | None = None
    log: LogRequest = LogRequest(driver="none")
    runtime_path: str = ""
    runtime_args: Sequence[str] = ()
    default_pids_limit: int = 500
    health: Mapping[str, Any] = field(default_factory=dict)

    def to_message(self) -> Message:
        """The fields of the op `create`."""
        return {
            "rootfs": list(self.rootfs),
            "terminal": self.terminal,
            "stdin_open": self.stdin_open,
            "console_size": list(self.console_size or ()),
            "log": self.log.to_message(),
            "runtime": {"path": self.runtime_path, "args": list(self.runtime_args)},
            "default_pids_limit": self.default_pids_limit,
            **({"health": dict(self.health)} if self.health else {}),
        }


@dataclass(frozen=True, slots=True)
class Attach:
    """How a client is attached.  `detach_keys` in Docker's notation; `initial_stdin` came with the request's head."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    multiplexed: bool = False
    stdin_once: bool = False
    detach_keys: str = ""
    initial_stdin: bytes = b""

    def to_message(self) -> Message:
        """The attach fields of a request."""
        return {
            "stdin": self.stdin,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "multiplexed": self.multiplexed,
            "stdin_once": self.stdin_once,
            "detach_keys": self.detach_keys,
            "initial_stdin": base64.b64encode(self.initial_stdin).decode(),
        }
