"""CRIU as a child that takes one request: `criu swrk FD` (criu.org/RPC, images/rpc.proto of its source).

The request goes over a SOCK_SEQPACKET pair.  CRIU finds its client by the socket's credentials and opens the
descriptors that a request names through /proc/PID/fd, so that none has to be inherited.
"""

from __future__ import annotations

import _socket
import shutil
import subprocess

from corten.errors import FailedPrecondition, Internal, InvalidArgument
from corten.runtime.protobuf import Message, data, number, text

PROGRAM = "criu"

# criu_req_type, and its names in messages
DUMP, PRE_DUMP, NOTIFY, FEATURE_CHECK = 1, 4, 6, 9
NAMES = {DUMP: "DUMP", PRE_DUMP: "PRE_DUMP", NOTIFY: "NOTIFY", FEATURE_CHECK: "FEATURE_CHECK"}
# criu_req
REQ_TYPE, REQ_OPTS, REQ_NOTIFY_SUCCESS, REQ_FEATURES = 1, 2, 3, 5
# criu_resp
RESP_TYPE, RESP_SUCCESS, RESP_ERRNO, RESP_FEATURES = 1, 2, 7, 8
FEATURE_MEM_TRACK = 1

# criu_opts
FIELDS: dict[str, int] = {
    "images_dir_fd": 1,
    "pid": 2,
    "leave_running": 3,
    "ext_unix_sk": 4,
    "tcp_established": 5,
    "shell_job": 7,
    "file_locks": 8,
    "log_level": 9,
    "log_file": 10,
    "page_server": 11,
    "root": 13,
    "parent_img": 14,
    "track_mem": 15,
    "auto_dedup": 16,
    "work_dir_fd": 17,
    "link_remap": 18,
    "ext_mnt": 23,
    "manage_cgroups": 24,
    "manage_cgroups_mode": 34,
    "external": 37,
    "empty_ns": 38,
    "freeze_cgroup": 44,
    "tcp_skip_in_flight": 46,
    "orphan_pts_master": 50,
    "config_file": 51,
}
CGROUP_MODES = {"": 3, "ignore": 0, "soft": 3, "full": 4, "strict": 5}
ANSWER_BYTES = 1 << 16


class Failed(FailedPrecondition):
    """CRIU tried, and could not; its log says why."""


class Request:
    """The options of a request, in the order in which they were added."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def number(self, name: str, value: int) -> None:
        """A number, or a flag."""
        self._parts.append(number(FIELDS[name], value))

    def text(self, name: str, *values: str) -> None:
        """A text, or one of a list."""
        self._parts += [text(FIELDS[name], value) for value in values]

    def pair(self, name: str, key: str, value: str) -> None:
        """A message of two texts."""
        self._parts.append(data(FIELDS[name], text(1, key) + text(2, value)))

    def page_server(self, address: str, port: int) -> None:
        """Where the memory goes instead of into files."""
        self._parts.append(data(FIELDS["page_server"], text(1, address) + number(2, port)))

    def encoded(self) -> bytes:
        """The message criu_opts."""
        return b"".join(self._parts)


def find(program: str = PROGRAM) -> str:
    """The program's path; raises FailedPrecondition in runc's words."""
    found = shutil.which(program)
    if found is None:
        raise FailedPrecondition(f'CRIU version check failed: exec: "{program}": executable file not found in $PATH')
    return found


def carry_out(kind: int, request: Request, program: str) -> None:
    """Has CRIU do it; raises Failed in runc's words when CRIU says that it failed."""
    _exchange(kind, number(REQ_TYPE, kind) + data(REQ_OPTS, request.encoded()), program)


def tracks_memory(program: str) -> bool:
    """Whether the kernel tells which pages were written since the last dump."""
    wanted = data(REQ_FEATURES, number(FEATURE_MEM_TRACK, 1))
    answer = _exchange(FEATURE_CHECK, number(REQ_TYPE, FEATURE_CHECK) + wanted, program)
    return bool(answer.message(RESP_FEATURES).number(FEATURE_MEM_TRACK))


def _exchange(kind: int, request: bytes, program: str) -> Message:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
    try:
        child = subprocess.Popen(
            [program, "swrk", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        try:
            return _answer(ours, kind, request)
        finally:
            ours.close()  # after a pre-dump CRIU would wait for the dump
            child.wait()
    finally:
        ours.close()
        theirs.close()


def _answer(stream: _socket.socket, kind: int, request: bytes) -> Message:
    """Sends the request, agrees to everything that CRIU tells meanwhile; the last answer."""
    try:
        stream.send(request)
        while True:
            content = stream.recv(ANSWER_BYTES)
            if not content:
                raise Failed("criu ended without an answer")
            answer = Message(content)
            told = answer.number(RESP_TYPE)
            if not answer.number(RESP_SUCCESS):
                name = NAMES.get(told, str(told))
                raise Failed(f"criu failed: type {name} errno {answer.number(RESP_ERRNO)}")
            if told == kind:
                return answer
            if told != NOTIFY:
                raise Internal(f"criu answered with type {told}")
            stream.send(number(REQ_TYPE, NOTIFY) + number(REQ_NOTIFY_SUCCESS, 1))
    except InvalidArgument as error:
        raise Internal(f"criu: {error}") from error
    except ConnectionError as error:
        raise Failed("criu ended without an answer") from error
