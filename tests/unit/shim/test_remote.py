"""Launchers that are a shim's children, and what they launch: played by processes that sleep, the shim by this one."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from corten.launch.ops import CloneLauncher, Plan
from corten.launch.spawn import KIND_LAUNCHER, KIND_STARTED
from corten.runtime import launching
from corten.runtime.trace import Trace
from corten.shim.remote import Caller, RemoteLaunch, ShimParent


class Scene:
    """A launcher, the one that goes on after its `CloneLauncher`, and the launched process before its Setsid."""

    def __init__(self, lives: contextlib.ExitStack) -> None:
        self.launcher = lives.enter_context(sleeper(0))
        self.second = lives.enter_context(sleeper(self.launcher.pid))
        self.child = lives.enter_context(sleeper(self.launcher.pid))
        ours, self._theirs = (lives.enter_context(end) for end in socket.socketpair(socket.AF_UNIX))
        self.caller = Caller(ours)
        read_fd, self.trace_fd = os.pipe()
        lives.callback(os.close, self.trace_fd)
        launch = RemoteLaunch(Plan((CloneLauncher("/"),), ()), self.caller, self.launcher.pid, read_fd)
        lives.callback(launch.close)
        self.running = launching.Running(launch, Trace(), parent=ShimParent(self.caller))

    def tell(self, kind: int, pid: int) -> None:
        """A record in the trace."""
        os.write(self.trace_fd, struct.pack("=IIQ", 0, kind, pid))
        self.running.follow()

    def dead(self) -> list[subprocess.Popen[bytes]]:
        """Whom the shim is to collect, in their order of birth."""
        return [
            process
            for process in (self.launcher, self.second, self.child)
            for pid in self.caller.dead
            if pid == process.pid
        ]


@contextlib.contextmanager
def sleeper(group: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"], process_group=group)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def scene() -> Iterator[Scene]:
    with contextlib.ExitStack() as lives:
        yield Scene(lives)


def test_a_process_that_dies_before_its_setsid_is_not_collected_with_its_launchers(scene: Scene) -> None:
    scene.tell(KIND_LAUNCHER, scene.second.pid)
    scene.tell(KIND_STARTED, scene.child.pid)
    for process in (scene.launcher, scene.second, scene.child):
        process.kill()
    scene.running.reap_launcher()
    assert scene.dead() == [scene.launcher, scene.second]
    os.close(scene.running.pidfd)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_launch_that_is_abandoned_kills_and_names_each_process_once(scene: Scene, is_known: bool) -> None:
    scene.tell(KIND_LAUNCHER, scene.second.pid)
    if is_known:
        scene.tell(KIND_STARTED, scene.child.pid)
    scene.running.abandon()
    assert scene.dead() == [scene.launcher, scene.second, scene.child]
