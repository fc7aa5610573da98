"""The helper's part of the zygote's rehearsal (corten.shim.rehearsal): real sessions, and a real launch by the shim
that is played, of a plan that touches nothing: a process that says a line and sleeps."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

from corten.launch.execops import Exec
from corten.launch.ops import CLONE_NEWPID, Clone, Plan, Wait
from corten.launch.userops import FindExecutable
from corten.runtime import launching
from corten.runtime.cgroups import CgroupPaths
from corten.runtime.trace import Trace
from corten.shim.helper import Answer, Session
from corten.shim.request import Request

if TYPE_CHECKING:
    from corten.runtime.prepare import Host

_SHELL = FindExecutable("/bin/sh", ("/bin/sh",))
_INIT = Plan(
    (Clone(CLONE_NEWPID), Wait("start", "its cue"), _SHELL, Exec(("sh", "-c", "echo a line; sleep 60"), (), (), ())),
    ("start",),
)
_EXEC = Plan((Clone(0), _SHELL, Exec(("sh", "-c", "echo a line"), (), (), ())), ())


class Stage:
    """Serves one session after the other until `over_fd` ends."""

    def __init__(self, directory: str, listener: socket.socket, host: Host) -> None:
        """`directory` is empty but for what the play makes."""
        self._listener = listener
        self._host = host
        self._cgroup = f"{directory}/cgroup"
        self._init: launching.Running | None = None
        self._cue = -1
        self._verbs = {"create": self._create, "start": self._start, "exec": self._exec, "delete": self._delete}
        self._verbs["stay"] = self._stay

    def run(self, over_fd: int) -> None:
        """The whole play."""
        poll = select.poll()
        for fd in (self._listener.fileno(), over_fd):
            poll.register(fd, select.POLLIN)
        while over_fd not in {fd for fd, _ in poll.poll()}:
            self._serve(self._listener.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        session = Session(sock, self._host, self._verbs)
        while not session.is_over and (request := session.receive()) is not None:
            session.serve(request)
        session.close()

    def _launch(self, session: Session, plan: Plan, fds: dict[str, int]) -> launching.Running:
        trace = Trace()
        trace.plan = plan
        return launching.Running(session.host.launcher.spawn(plan, fds), trace, parent=session.host.parent)

    def _create(self, session: Session, request: Request) -> Answer:
        cue_read, self._cue = os.pipe()
        running = self._init = self._launch(session, _INIT, {"start": cue_read})
        os.close(cue_read)
        running.follow_until("start")
        running.reap_launcher()
        facts = session.host.facts
        paths = CgroupPaths(facts.cgroup_mode, dict.fromkeys(facts.cgroup_v1, self._cgroup), "", "")
        phases = [("overlay", 0, 1), ("prepare", 0, 1), ("cgroup", 0, 1), ("launch", 0, 1)]
        answer = {"pid": running.pid, "phases": phases, "cgroup": paths.to_obj()}
        return answer, [os.dup(running.pidfd), os.dup(running.launch.trace_fd), os.open("/", os.O_PATH)]

    def _start(self, session: Session, request: Request) -> Answer:
        assert self._init is not None
        os.write(self._cue, b"x")
        self._init.follow_to_exec()
        self._init.launch.close()
        os.close(self._init.pidfd)
        os.close(self._cue)
        session.is_over = True
        return {}, []

    def _exec(self, session: Session, request: Request) -> Answer:
        running = self._launch(session, _EXEC, {})
        running.follow_to_exec()
        running.reap_launcher()
        running.launch.close()
        return {"pid": running.pid}, [running.pidfd]

    def _stay(self, session: Session, request: Request) -> Answer:
        session.is_over = True  # one session after the other: the play needs the stage
        return {}, []

    def _delete(self, session: Session, request: Request) -> Answer:
        return {}, []
