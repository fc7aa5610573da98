"""`docker top` with options of ps, beside dockerd 26.1."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support import images
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine
from support.process import wait_for

Engines = tuple[Dockerd, CortenEngine]

OPTIONS = (
    *("", "-ef", "aux", "-o pid,cmd", "-o pid", "-eo pid,comm", "-eo comm,pid,args", "-o cmd", "-o pid=X", "-o pid="),
    *("-o comm=PID,pid", "-o user=PID -o pid", "-eo pid,user:20,args", "-A", "u", "f", "auxf", "--forest", "-Z", "x"),
    *("-ef --forest", "--nonsense", "-o nonsense", "-o pid,ppid,uid,gid,stat,tty,etime,time,cmd", "-l", "-F", "-T"),
    *("axo pid,comm", "-eo pid,cmd --sort=-pid", "-p 1", "-C sh", "-o 'pid,cmd'", "-eLf", "-H", "-q 1", "pid", '"'),
    *("-ef -o pid", "-o ppid,pid,lstart", "--version", "--help", "-w"),
)


@pytest.fixture(scope="module")
def both() -> Iterator[Engines]:
    with Dockerd() as theirs, CortenEngine() as ours:
        for engine in (theirs, ours):
            engine.docker("load", "-i", str(images.busybox()), check=True)
            script = "sleep 1000 & sleep 1001 & echo ready; wait"
            run = ("run", "-d", "--name", "box", "--network", "none", images.BUSYBOX_REF, "sh", "-c", script)
            engine.docker(*run, check=True)
            wait_for(lambda: "ready" in engine.docker("logs", "box").stdout, "ready")  # noqa: B023 - at once
        yield theirs, ours


def told(engine: DockerClient, words: list[str]) -> tuple[int, str, str]:
    """Without what differs: numbers, times, days, and how deep below init a container's processes are."""
    done = engine.docker("top", "box", *words)
    text = re.sub(r"(?<![\w:])([A-Z][a-z]{2} ?)+\d+ ", "DAY ", done.stdout)
    text = re.sub(r"\b\d+(:\d+)*\b", "N", text)
    text = re.sub(r" [ |]+\\_", r" \_", text)
    return done.returncode, "\n".join(" ".join(line.split()) for line in text.splitlines()), done.stderr


@pytest.mark.parametrize("options", OPTIONS)
def test_processes_are_told_alike(both: Engines, options: str) -> None:
    theirs, ours = (told(engine, options.split(" ") if options else []) for engine in both)
    assert ours == theirs
