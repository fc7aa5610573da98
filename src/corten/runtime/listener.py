"""The seccomp agent of a container: who answers the system calls of SCMP_ACT_NOTIFY (seccomp_unotify(2)).

Rules: config-linux.md, "Seccomp" and "The Container Process State".  The launcher sends the listener of its filter to
this side, which passes it to the agent's socket: only here the process's pid is known, and agents read the state and
the descriptor in one message.  The bundle says who the agent is; it may be dead or deaf, and then the start fails.
"""

from __future__ import annotations

import posix

from corten.errors import Internal, Unavailable
from corten.launch.context import LISTENER
from corten.launch.ops import Wait
from corten.runtime import fast
from corten.runtime.parentsteps import ParentStep
from corten.runtime.state import CREATING, OCI_VERSION
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.launch.ops import Plan
    from corten.runtime.launching import Creation
    from corten.runtime.state import State
    from corten.spec.runtime import Config

SECCOMP_FD_NAME = "seccompFd"
# what the launcher sends is there before it goes on; an agent that reads nothing holds up nobody for longer
TIMEOUT_S = 10.0


class Step(ParentStep):
    """Between the filter of an init and its start; owns this side's socket while the creation does."""

    __slots__ = ("_fd",)

    def __init__(self, plan: Plan) -> None:
        waits = any(isinstance(op, Wait) and op.slot == LISTENER for op in plan.ops)
        super().__init__(LISTENER, self._hand_over, waits=waits)
        self._fd = -1

    def open(self) -> tuple[int, int]:
        theirs, ours = fast.socket_pair()
        self._fd = ours.detach()
        return theirs.detach(), self._fd

    def _hand_over(self, making: Creation, pid: int) -> None:
        hand_over(self._fd, making.prepared.config, making.state, making.state.oci(CREATING), pid)


def hand_over(fd: int, config: Config, record: State, state: dict[str, Any], pid: int) -> None:
    """Passes the listener that comes on the socket `fd` to the bundle's agent; raises Unavailable in runc's words."""
    import _socket

    profile = config.linux.seccomp or {}
    stream = _socket.socket(fileno=fd)
    try:
        stream.settimeout(TIMEOUT_S)
        listener_fd = fast.receive_fd(stream)
    except OSError as error:
        raise Internal(f"receive the seccomp listener: {_why(error)}") from error
    finally:
        stream.setblocking(True)
        stream.detach()
    if listener_fd < 0:
        raise Internal("receive the seccomp listener: the launcher sent none")
    try:
        data = message(str(profile.get("listenerMetadata") or ""), state, pid)
        _send(f"{record.bundle}/{profile['listenerPath']}", str(profile["listenerPath"]), data, listener_fd)
    finally:
        posix.close(listener_fd)


def message(metadata: str, state: dict[str, Any], pid: int) -> bytes:
    """The container process state as JSON."""
    obj: dict[str, Any] = {"ociVersion": OCI_VERSION, "fds": [SECCOMP_FD_NAME], "pid": pid}
    if metadata:
        obj["metadata"] = metadata
    obj["state"] = state
    return fast.dump_bytes(obj)


def _send(below_bundle: str, path: str, data: bytes, listener_fd: int) -> None:
    """One connection, one message; a long one goes on without the descriptor."""
    import _socket

    try:
        agent = _socket.socket(fileno=fast.connect_unix(path if path[:1] == "/" else below_bundle, TIMEOUT_S))
    except OSError as error:
        text = f"failed to connect with seccomp agent specified in the seccomp profile: {path}: {_why(error)}"
        raise Unavailable(text) from error
    try:
        agent.settimeout(TIMEOUT_S)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, listener_fd.to_bytes(4, "little"))]
        sent = agent.sendmsg([data], rights, _socket.MSG_NOSIGNAL)
        agent.sendall(data[sent:], _socket.MSG_NOSIGNAL)
    except OSError as error:
        raise Unavailable(f"cannot send seccomp fd to {path}: {_why(error)}") from error
    finally:
        agent.close()


def _why(error: OSError) -> str:
    return files.why(error) if error.strerror else str(error)
