"""The process in which policies run, one per cortend with policies: a policy that hangs or crashes ends this alone.

On the socket at standard input, a JSON object per line, one answer for each:

    {"files": [[path, text], …], "limit_s": S}  {"functions": [[path, name, line], …]} or {"failed", "file", "line"}
    {"call": N, "view": {…}}                    {"values": {…} or null}, {"refused": reason} or {"failed", "line"}

A function that takes longer than the limit is answered for by the alarm (setitimer(2)), and the process ends: whoever
catches every exception cannot go on.  It ends as well when its socket does, that is with cortend.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType, TracebackType
from typing import Any, BinaryIO, Final, NoReturn

from corten.policy.words import MARK, Container, Refused

Json = dict[str, Any]

_MEMORY_BYTES: Final = 1 << 30
_ANSWER_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Policy:
    """One function of a file."""

    path: str
    name: str
    line: int
    function: Callable[[Container], Any]


class Worker:
    """Reads requests and answers them, until the socket ends."""

    def __init__(self, requests: BinaryIO, answers: socket.socket) -> None:
        self._requests = requests
        self._answers = answers
        self._policies: list[Policy] = []
        self._limit_s = 0.0
        self._path = ""  # of the file that is at work
        self._line = 0  # where it begins

    def run(self) -> None:
        """Until the end of the requests."""
        signal.signal(signal.SIGALRM, self._late)
        for line in self._requests:
            request = json.loads(line)
            if "files" in request:
                self._limit_s = float(request["limit_s"])
                self._answer(self._load(request["files"]))
            else:
                self._answer(self._call(self._policies[request["call"]], request["view"]))

    def _answer(self, answer: Json) -> None:
        data = _encoded(answer, errors="replace")
        if len(data) > _ANSWER_BYTES:
            data = _encoded({"failed": "returned too much", "line": self._line})
        self._answers.sendall(data)

    def _load(self, files: list[list[str]]) -> Json:
        for path, text in files:
            self._path, self._line = path, 0
            names: Json = {"__name__": "policy", "__file__": path}
            try:
                self._timed(lambda path=path, text=text, names=names: exec(_compiled(path, text), names))  # type: ignore[misc]
            except BaseException as error:  # outermost: whatever a file does is told
                line = error.lineno if isinstance(error, SyntaxError) else _line(error.__traceback__, path)
                return {"failed": _said(error), "file": path, "line": line or 0}
            self._policies += _found(path, names)
        return {"functions": [[one.path, one.name, one.line] for one in self._policies]}

    def _call(self, policy: Policy, view: Json) -> Json:
        self._path, self._line = policy.path, policy.line
        try:
            values = self._timed(lambda: policy.function(Container(**view)))
            if values is not None and not isinstance(values, dict):
                return {"failed": f"returned a {type(values).__name__}, not a dict or None", "line": policy.line}
            _encoded(values)
        except Refused as refused:
            return {"refused": str(refused)}
        except BaseException as error:  # outermost, as above
            return {"failed": _said(error), "line": _line(error.__traceback__, policy.path) or policy.line}
        return {"values": values}

    def _timed(self, work: Callable[[], Any]) -> Any:
        signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _late(self, number: int, frame: FrameType | None) -> NoReturn:
        """The alarm: says where the file is, and ends."""
        while frame is not None and frame.f_code.co_filename != self._path:
            frame = frame.f_back
        line = frame.f_lineno if frame is not None else self._line
        self._answer({"failed": f"took longer than {self._limit_s:g} s", "file": self._path, "line": line})
        os._exit(1)


def _compiled(path: str, text: str) -> CodeType:
    return compile(text, path, "exec", dont_inherit=True)


def _found(path: str, names: Json) -> list[Policy]:
    """The marked functions of a file, in its order; what it imports is no policy."""
    found = []
    for name, value in names.items():
        code = getattr(value, "__code__", None)
        if getattr(value, MARK, False) and code is not None and code.co_filename == path:
            found.append(Policy(path, name, code.co_firstlineno, value))
    return sorted(found, key=lambda one: one.line)


def _encoded(answer: Any, errors: str = "strict") -> bytes:
    """JSON that every reader takes: no NaN, no half of a surrogate pair.  Raises ValueError, TypeError."""
    return json.dumps(answer, allow_nan=False, ensure_ascii=False).encode(errors=errors) + b"\n"


def _said(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _line(traceback: TracebackType | None, path: str) -> int:
    """The last line of the file itself that an exception came through; 0 for none."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == path:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def main() -> None:
    """Standard input becomes /dev/null, and standard output cortend's log, before a policy runs."""
    with socket.socket(fileno=os.dup(0)) as answers, answers.makefile("rb") as requests:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.dont_write_bytecode = True
        Worker(requests, answers).run()
