"""CRIU as a child that takes one request: `criu swrk FD` (criu.org/RPC, images/rpc.proto of its source).

The request goes over a SOCK_SEQPACKET pair.  CRIU finds its client by the socket's credentials and opens the
directories that a request names through /proc/PID/fd; only what a restored process is to get has to be inherited.
"""

from __future__ import annotations

import _socket
import shutil
import subprocess

from corten.errors import FailedPrecondition, Internal, InvalidArgument
from corten.runtime.protobuf import Message, data, number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    OnNote = Callable[[str, int, int], None]

PROGRAM = "criu"

# criu_req_type, and its names in messages
DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK = 1, 2, 4, 6, 9
NAMES = {
    DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP", NOTIFY: "NOTIFY", FEATURE_CHECK: "FEATURE_CHECK",
}  # fmt: skip
# criu_req
REQ_TYPE, REQ_OPTS, REQ_NOTIFY_SUCCESS, REQ_FEATURES = 1, 2, 3, 5
# criu_resp
RESP_TYPE, RESP_SUCCESS, RESP_NOTIFY, RESP_ERRNO, RESP_FEATURES = 1, 2, 5, 7, 8
NOTIFY_SCRIPT, NOTIFY_PID = 1, 2
MEM_TRACK, LAZY_PAGES = 1, 2  # criu_features

# criu_opts
FIELDS: dict[str, int] = {
    "images_dir_fd": 1,
    "pid": 2,
    "leave_running": 3,
    "ext_unix_sk": 4,
    "tcp_established": 5,
    "evasive_devices": 6,
    "shell_job": 7,
    "file_locks": 8,
    "log_level": 9,
    "log_file": 10,
    "page_server": 11,
    "notify_scripts": 12,
    "root": 13,
    "parent_img": 14,
    "track_mem": 15,
    "auto_dedup": 16,
    "work_dir_fd": 17,
    "link_remap": 18,
    "ext_mnt": 23,
    "manage_cgroups": 24,
    "cg_root": 25,
    "rst_sibling": 26,
    "inherit_fd": 27,
    "manage_cgroups_mode": 34,
    "external": 37,
    "empty_ns": 38,
    "join_ns": 39,
    "freeze_cgroup": 44,
    "tcp_skip_in_flight": 46,
    "lazy_pages": 48,
    "orphan_pts_master": 50,
    "config_file": 51,
    "lsm_profile": 53,
    "lsm_mount_context": 63,
}
CGROUP_MODES = {"": 3, "ignore": 0, "soft": 3, "full": 4, "strict": 5}
ANSWER_BYTES = 1 << 16
FD_BYTES = 4


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

    def inherited(self, key: str, fd: int) -> None:
        """What stands for a descriptor of the images: one that CRIU has open under the same number."""
        self._parts.append(data(FIELDS["inherit_fd"], text(1, key) + number(2, fd)))

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


def agree(script: str, pid: int, fd: int) -> None:
    """What CRIU tells meanwhile is of no interest."""


def carry_out(kind: int, request: Request, program: str, on_note: OnNote = agree) -> None:
    """Has CRIU do it; raises Failed in runc's words when CRIU says that it failed."""
    with Conversation(program) as talk:
        talk.ask(kind, request, on_note)


def check_feature(program: str, feature: int, name: str) -> None:
    """Raises FailedPrecondition, in runc's words, for what CRIU or the kernel lacks."""
    wanted = data(REQ_FEATURES, number(feature, 1))
    with Conversation(program) as talk:
        answer = talk.exchange(FEATURE_CHECK, number(REQ_TYPE, FEATURE_CHECK) + wanted)
    if not answer.message(RESP_FEATURES).number(feature):
        raise FailedPrecondition(f"CRIU is missing features: [{name}]")


class Conversation:
    """A `criu swrk` and our end of its socket; a context manager that ends it.

    When our end closes in the middle of a restore CRIU kills what it has restored so far, and ends.
    """

    __slots__ = ("_child", "_stream")

    def __init__(
        self,
        program: str,
        *,
        stdio: tuple[int, int, int] = (subprocess.DEVNULL,) * 3,
        fds: Sequence[int] = (),
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        """Spawns the program, with `fds` open under their numbers and `before_exec` called in the new process;
        raises subprocess.SubprocessError when that fails."""
        self._stream, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
        try:
            self._child = subprocess.Popen(
                [program, "swrk", str(theirs.fileno())],
                stdin=stdio[0],
                stdout=stdio[1],
                stderr=stdio[2],
                pass_fds=(theirs.fileno(), *fds),
                preexec_fn=before_exec,  # noqa: PLW1509 - the runtime has no threads
            )
        except BaseException:
            self._stream.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """CRIU's process."""
        return self._child.pid

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *reason: object) -> None:
        self._stream.close()  # after a pre-dump CRIU would wait for the dump
        self._child.wait()

    def ask(self, kind: int, request: Request, on_note: OnNote = agree) -> Message:
        """Has CRIU do it; the last answer.

        `on_note(script, pid, fd)` is called for everything that CRIU tells meanwhile, and what it raises ends it all;
        it owns `fd`, -1 where there is none.  Raises Failed in runc's words when CRIU says that it failed.
        """
        return self.exchange(kind, number(REQ_TYPE, kind) + data(REQ_OPTS, request.encoded()), on_note)

    def exchange(self, kind: int, request: bytes, on_note: OnNote = agree) -> Message:
        """The same with a message criu_req."""
        try:
            self._stream.send(request)
            while True:
                answer, fd = self._receive()
                told = answer.number(RESP_TYPE)
                if not answer.number(RESP_SUCCESS):
                    name = NAMES.get(told, str(told))
                    raise Failed(f"criu failed: type {name} errno {answer.number(RESP_ERRNO)}")
                if told == kind:
                    return answer
                if told != NOTIFY:
                    raise Internal(f"criu answered with type {told}")
                note = answer.message(RESP_NOTIFY)
                on_note(note.data(NOTIFY_SCRIPT).decode("ascii", "replace"), note.number(NOTIFY_PID), fd)
                self._stream.send(number(REQ_TYPE, NOTIFY) + number(REQ_NOTIFY_SUCCESS, 1))
        except ConnectionError as error:
            raise Failed("criu ended without an answer") from error

    def _receive(self) -> tuple[Message, int]:
        """The next message, and the descriptor that came with it."""
        content, ancillary, _, _ = self._stream.recvmsg(
            ANSWER_BYTES, _socket.CMSG_SPACE(FD_BYTES), _socket.MSG_CMSG_CLOEXEC
        )
        if not content:
            raise Failed("criu ended without an answer")
        fds = [int.from_bytes(row[:FD_BYTES], "little") for _, _, row in ancillary]
        try:
            return Message(content), fds[0] if fds else -1
        except InvalidArgument as error:
            raise Internal(f"criu: {error}") from error
