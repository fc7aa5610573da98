"""`docker exec`: made here, run by the shim.

created  --start-->         running  --exit told-->  exited
created  --start failed-->  exited (126)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import enum
import os
import secrets
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from corten.core.shims import Attach, ShimClient
from corten.engine import launcherrors, links, mapped, oci
from corten.engine.accounts import find_user
from corten.engine.container import Container
from corten.engine.events import container_event
from corten.engine.parts import Parts
from corten.engine.record import Status
from corten.engine.start import CONFIG_NAME
from corten.engine.streams import ClientStream, check_size
from corten.engine.times import from_rfc3339
from corten.engine.users import Accounts, read_accounts
from corten.errors import Conflict, CortenError, Internal, InvalidArgument, NotFound
from corten.shim.detach import parse_keys
from corten.spec.docker import ExecConfig

Json = dict[str, Any]

_HEADER: Final = struct.Struct(">BxxxI")
_STDOUT: Final = 1
_KILLED: Final = 137
_PAUSED: Final = "container is paused"  # as a shim says it
_MAX_FINISHED: Final = 1024  # older ones are forgotten
_MAX_PROBES: Final = 256  # they come all the time, and must not push out those of clients


class ExecState(enum.StrEnum):
    """Where an exec is."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


class Exec:
    """One exec instance."""

    __slots__ = ("code", "config", "container", "id", "is_probe", "pid", "state")

    def __init__(self, id: str, container: Container, config: ExecConfig, *, is_probe: bool = False) -> None:
        """`is_probe`: of a health check."""
        self.id = id
        self.is_probe = is_probe
        self.container = container
        self.config = config
        self.state = ExecState.CREATED
        self.pid = 0
        self.code: int | None = None


class Execs:
    """All exec instances."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._all: dict[str, Exec] = {}
        self._finished: deque[str] = deque()
        self._probes: deque[str] = deque()  # finished ones

    async def create(self, ref: str, config: ExecConfig) -> Json:
        """`{"Id"}`."""
        container = self._parts.roster.find(ref)
        if container.record.state.status is Status.PAUSED:
            raise _paused(ref)
        container.require_running()
        if not config.cmd:
            raise InvalidArgument("No exec command specified")
        _detach_keys(config)
        one = Exec(secrets.token_hex(32), container, config)
        self._all[one.id] = one
        container.exec_ids.append(one.id)
        self._tell(one, f"exec_create: {_words(config)}")
        return {"Id": one.id}

    def find(self, exec_id: str) -> Exec:
        """Raises NotFound in Docker's words."""
        found = self._all.get(exec_id)
        if found is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    async def check(self, exec_id: str, tty: bool) -> bool:
        """Whether it has a tty.  Raises NotFound, Conflict."""
        one = self.find(exec_id)
        if one.state is ExecState.RUNNING:
            raise Conflict(f"Error: Exec command {exec_id} is already running")
        if one.state is ExecState.EXITED:
            raise Conflict(f"Error: Exec command {exec_id} has already run")
        if one.container.record.state.status is Status.PAUSED:
            raise _paused(one.container.id)
        one.container.require_running()
        return one.config.tty

    async def start(
        self, exec_id: str, detach: bool, console_size: tuple[int, int] | None, stream: ClientStream | None
    ) -> None:
        """Run it; the client's socket goes with the request, so that no byte is missed."""
        one = self.find(exec_id)
        await self.check(exec_id, one.config.tty)
        shim = one.container.require_running()
        one.state = ExecState.RUNNING
        self._tell(one, f"exec_start: {_words(one.config)}")
        is_asked = False
        try:
            process = await self._process(one, shim, console_size)
            is_asked = True
            status = await self._run(one, shim, process, console_size, stream)
        except (CortenError, OSError, asyncio.CancelledError) as error:  # the last two: the client has gone
            if is_asked and isinstance(error, asyncio.CancelledError):
                raise  # it runs, and the shim tells of its end
            one.code = launcherrors.CANNOT_INVOKE
            self._end(one)
            raise
        one.pid = int(status["pid"])  # also after its end, as dockerd shows it

    async def _process(self, one: Exec, shim: ShimClient, size: tuple[int, int] | None) -> Json:
        """The OCI process: the container's own with what the request changes."""
        container, config = one.container, one.config
        if config.working_dir and not config.working_dir.startswith("/"):
            raise launcherrors.exec_error(Internal("Cwd must be an absolute path"))
        effective = container.record.effective
        try:
            with open(f"{shim.directory}/{CONFIG_NAME}", "rb") as file:
                base = msgspec.json.decode(file.read())["process"]
            pid = container.record.state.pid
            what = "/etc/passwd and /etc/group of container"
            accounts = await self._parts.container_looks.look(what, container.id, lambda: _accounts(pid))
        except OSError as error:  # its init is dead, which nobody has told yet
            raise Conflict(f"container {container.id} is not running") from error
        user = await find_user(config.user or effective.config.user, accounts, effective.host.group_add or ())
        mapped.check_exec_user(user, effective.id_map)
        if size is not None:
            config = msgspec.structs.replace(config, console_size=size)
        lent = links.environment(container, links.up(container, self._parts.roster))
        own = msgspec.structs.replace(effective.config, env=[*lent, *(effective.config.env or ())])
        process = oci.exec_process(base, own, config, user)
        return oci.privileged_process(process, self._parts.machine) if config.privileged else process

    async def _run(
        self, one: Exec, shim: ShimClient, process: Json, size: tuple[int, int] | None, stream: ClientStream | None
    ) -> Json:
        """Hand process and socket to the shim.  What keeps it from starting is written to the socket, as by dockerd."""
        tty = one.config.tty
        if stream is None:
            with _launch_errors(one.container, shim):
                return await shim.exec_start(one.id, process, terminal=tty, console_size=size)
        stream.write_head()
        fd = stream.detach_fd()
        try:
            with _launch_errors(one.container, shim):
                return await shim.exec_start(
                    one.id,
                    process,
                    terminal=tty,
                    stdin_open=one.config.attach_stdin,
                    console_size=size,
                    attach=_attach(one.config, stream),
                    stream_fd=fd,
                )
        except CortenError as error:
            _write_error(fd, error.text, tty=tty)
            raise
        finally:
            os.close(fd)

    def exited(self, container: Container, message: Json) -> None:
        """The shim tells of an exec's end."""
        one = self._all.get(str(message["exec_id"]))
        if one is None or one.state is ExecState.EXITED:
            return
        one.code = int(message["status"])
        self._end(one)
        self._tell(one, "exec_die", exitCode=str(one.code))

    def probe(self, container: Container, exec_id: str, cmd: list[str]) -> None:
        """The shim begins an exec of a health check."""
        config = ExecConfig(cmd=cmd, attach_stdout=True, attach_stderr=True)
        one = self._all[exec_id] = Exec(exec_id, container, config, is_probe=True)
        one.state = ExecState.RUNNING
        container.exec_ids.append(exec_id)
        for action in ("exec_create", "exec_start"):
            self._tell(one, f"{action}: {_words(config)}")

    def probe_failed(self, exec_id: str) -> None:
        """It could not be launched."""
        one = self._all.get(exec_id)
        if one is not None:
            one.code = launcherrors.CANNOT_INVOKE
            self._end(one)

    def replay_probe(self, container: Container, entry: Json, cmd: list[str]) -> None:
        """The events of a probe that nobody heard of, with its own times."""
        words, start_ns = _words(ExecConfig(cmd=cmd)), from_rfc3339(str(entry["start"]))
        rows: list[tuple[str, int, dict[str, str]]]
        rows = [(f"exec_create: {words}", start_ns, {}), (f"exec_start: {words}", start_ns, {})]
        if not entry.get("failed"):
            code = _KILLED if entry.get("timed_out") else int(entry["status"])
            rows.append(("exec_die", from_rfc3339(str(entry["end"])), {"exitCode": str(code)}))
        for action, time_ns, more in rows:
            event = container_event(container.record, action.rstrip("\n"), execID=str(entry["exec_id"]), **more)
            self._parts.bus.publish(msgspec.structs.replace(event, time_ns=time_ns))

    def _end(self, one: Exec) -> None:
        """It is over, unless it was with its container already; the last ones stay for ExecInspect."""
        if one.state is ExecState.EXITED:
            return
        one.state = ExecState.EXITED
        one.container.exec_ids.remove(one.id)
        finished, limit = (self._probes, _MAX_PROBES) if one.is_probe else (self._finished, _MAX_FINISHED)
        finished.append(one.id)
        if len(finished) > limit:
            self._all.pop(finished.popleft(), None)

    def container_ended(self, container: Container) -> None:
        """Execs that were never started can be started no more; those that ran were told of."""
        for exec_id in list(container.exec_ids):
            self._end(self._all[exec_id])

    async def resize(self, exec_id: str, rows: int, cols: int) -> None:
        """Size of its terminal."""
        check_size(rows, cols)
        one = self.find(exec_id)
        if one.state is ExecState.EXITED:
            raise NotFound(f"process does not exist {exec_id}: not found")
        if one.state is not ExecState.RUNNING:
            raise Internal("timeout waiting for exec session ready")
        with one.container.asked() as shim:
            await shim.resize(rows, cols, exec_id)

    async def inspect(self, exec_id: str) -> Json:
        """ExecInspect's answer."""
        one = self.find(exec_id)
        config = one.config
        process: Json = {
            "tty": config.tty,
            "entrypoint": (config.cmd or [""])[0],
            "arguments": (config.cmd or [""])[1:],
            "privileged": config.privileged,
        }
        if config.user:
            process["user"] = config.user
        return {
            "ID": one.id,
            "Running": one.state is ExecState.RUNNING,
            "ExitCode": one.code,
            "ProcessConfig": process,
            "OpenStdin": config.attach_stdin,
            "OpenStderr": config.attach_stderr,
            "OpenStdout": config.attach_stdout,
            "CanRemove": False,
            "ContainerID": one.container.id,
            "DetachKeys": base64.b64encode(_detach_keys(config)).decode(),
            "Pid": one.pid,
        }

    def adopt(self, container: Container, statuses: dict[str, Json]) -> None:
        """Execs that an earlier daemon started and whose shim still knows them."""
        for exec_id, status in statuses.items():
            one = Exec(exec_id, container, ExecConfig(cmd=[""], tty=bool(status.get("terminal"))))
            one.state, one.pid = ExecState.RUNNING, int(status["pid"])
            self._all[exec_id] = one
            container.exec_ids.append(exec_id)
            if status["state"] == "exited":
                one.code = int(status["status"])
                self._end(one)

    def _tell(self, one: Exec, action: str, **attributes: str) -> None:
        event = container_event(one.container.record, action.rstrip("\n"), execID=one.id, **attributes)
        self._parts.bus.publish(event)


def _accounts(pid: int) -> Accounts:
    """As the container's files say now.  Raises OSError when its init is gone.  May never end (`looks`)."""
    root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return read_accounts(root_fd)
    finally:
        os.close(root_fd)


def _words(config: ExecConfig) -> str:
    """The command as events show it: `sh -c x`, and `sh ` without arguments."""
    first, *rest = config.cmd or [""]
    return f"{first} {' '.join(rest)}"


def _detach_keys(config: ExecConfig) -> bytes:
    """The bytes that stand for the keys; none by default.  Raises Internal in dockerd's words."""
    try:
        return parse_keys(config.detach_keys) if config.detach_keys else b""
    except InvalidArgument as error:
        raise Internal(f"Invalid escape keys ({config.detach_keys}) provided") from error


def _attach(config: ExecConfig, stream: ClientStream) -> Attach:
    return Attach(
        stdin=config.attach_stdin,
        stdout=config.attach_stdout,
        stderr=config.attach_stderr,
        multiplexed=not config.tty,
        stdin_once=True,
        detach_keys=config.detach_keys,
        initial_stdin=stream.initial,
    )


def _paused(ref: str) -> Conflict:
    return Conflict(f"Container {ref} is paused, unpause the container before exec")


@contextlib.contextmanager
def _launch_errors(container: Container, shim: ShimClient) -> Iterator[None]:
    """What a runtime says, as dockerd words it; of one that was paused or ended meanwhile as before it was asked."""
    try:
        with container.told_of_end(shim):
            yield
    except Conflict:
        raise
    except CortenError as error:
        if error.text == _PAUSED:
            raise _paused(container.id) from error
        raise launcherrors.exec_error(error) from error


def _write_error(fd: int, text: str, *, tty: bool) -> None:
    data = f"{text}\r\n".encode()
    frame = data if tty else _HEADER.pack(_STDOUT, len(data)) + data
    with contextlib.suppress(OSError):  # the client has gone
        os.write(fd, frame)
