"""`run` and `exec` in the foreground with a terminal: what they copy, and what never holds them up, beside runc.

runc wants a controlling terminal; stdio itself are files and pipes here, which take more and give more than a terminal.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from support import paths, peers, runtimes
from support.console import read_until
from support.process import wait_for
from support.runtimes import Runtime

MUCH = b"".join(b"line %06d\n" % number for number in range(30_000))
READER = f"stty -echo; echo ready; head -c {len(MUCH)} | md5sum"
TRAPPING = "trap 'exit 5' TERM; echo ready; "


@pytest.fixture(params=["corten", "runc"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    """corten-runtime, then runc."""
    program = paths.COMMANDS / "corten-runtime" if request.param == "corten" else peers.binary("runc")
    made = Runtime(program, tmp_path / "state")
    yield made
    made.close()
    runtimes.remove_cgroups()


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Runtime]:
    made = Runtime(paths.COMMANDS / "corten-runtime", tmp_path / "state")
    yield made
    made.close()
    runtimes.remove_cgroups()


@contextmanager
def at_terminal(argv: Sequence[str], stdin: IO[bytes] | int) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose controlling terminal is a new one; its stdout is a pipe."""
    master, slave = os.openpty()
    with subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),  # noqa: PLW1509 -- no threads here
    ) as started:
        os.close(slave)
        try:
            yield started
        finally:
            started.kill()
            os.close(master)


def with_terminal(*args: str, folder: Path) -> str:
    """The path of a bundle that runs `args` with a terminal."""
    return str(runtimes.bundle(*args, folder=folder / "bundle", terminal=True).path)


def much(folder: Path) -> IO[bytes]:
    (folder / "much").write_bytes(MUCH)
    return (folder / "much").open("rb")


class TestInput:
    """More than a terminal takes at once."""

    def test_all_of_it_arrives(self, runtime: Runtime, tmp_path: Path) -> None:
        argv = runtime.argv("run", "-b", with_terminal("sh", "-c", READER, folder=tmp_path), "c")
        with much(tmp_path) as stdin, at_terminal(argv, stdin) as run:
            output, _ = run.communicate(timeout=30)
            assert (run.returncode, output.split()[-2]) == (0, hashlib.md5(MUCH).hexdigest().encode())

    def test_an_exec_gets_all_of_it(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.detached("run", "-d", "-b", str(runtimes.sleeper(tmp_path).path), "c")
        argv = runtime.argv("exec", "-t", "c", "sh", "-c", READER)
        with much(tmp_path) as stdin, at_terminal(argv, stdin) as run:
            output, _ = run.communicate(timeout=30)
            assert (run.returncode, output.split()[-2]) == (0, hashlib.md5(MUCH).hexdigest().encode())

    def test_what_nobody_reads_holds_no_signal_up(self, runtime: Runtime, tmp_path: Path) -> None:
        script = f"{TRAPPING} while :; do sleep 0.05; done"
        argv = runtime.argv("run", "-b", with_terminal("sh", "-c", script, folder=tmp_path), "c")
        with much(tmp_path) as stdin, at_terminal(argv, stdin) as run:
            assert run.stdout is not None
            read_until(run.stdout.fileno(), b"ready")
            run.send_signal(signal.SIGTERM)
            run.communicate(timeout=30)
            assert run.returncode == 5
        assert runtime("list", "-q").stdout == ""

    def test_the_echo_of_all_of_it_is_shown(self, ours: Runtime, tmp_path: Path) -> None:
        argv = ours.argv("run", "-b", with_terminal("wc", "-l", folder=tmp_path), "c")
        with much(tmp_path) as stdin, at_terminal(argv, stdin) as run:
            output, _ = run.communicate(timeout=30)
        assert output.replace(b"\r\n", b"\n") == MUCH + b"30000\n"


class TestOutput:
    def test_that_nobody_fetches_holds_no_signal_up(self, runtime: Runtime, tmp_path: Path) -> None:
        script = f"{TRAPPING} while :; do echo {'x' * 60}; done & wait"
        argv = runtime.argv("run", "-b", with_terminal("sh", "-c", script, folder=tmp_path), "c")
        with at_terminal(argv, subprocess.DEVNULL) as run:
            assert run.stdout is not None
            read_until(run.stdout.fileno(), b"ready")
            runtime.wait_for("c", "running")
            run.send_signal(signal.SIGTERM)
            wait_for(lambda: "running" not in runtime("list").stdout, "end of it")  # nothing was read: the pipe is full
            run.communicate(timeout=30)
            assert run.returncode == 5

    def test_that_cannot_be_written_does_not_end_the_run(self, ours: Runtime, tmp_path: Path) -> None:
        argv = ours.argv(
            "run", "-b", with_terminal("sh", "-c", "head -c 300000 /dev/zero; exit 3", folder=tmp_path), "c"
        )
        with at_terminal(argv, subprocess.DEVNULL) as run:
            assert run.stdout is not None
            run.stdout.close()
            assert run.wait(30) == 3
        assert ours("list", "-q").stdout == ""


class TestFailuresOfRun:
    """What fails once there is a container."""

    @pytest.mark.parametrize("flags", [[], ["--keep"], ["--detach"]])
    def test_a_poststart_hook_that_fails(self, runtime: Runtime, tmp_path: Path, flags: list[str]) -> None:
        bundle = runtimes.sleeper(tmp_path)
        bundle.config["hooks"] = {"poststart": [{"path": "/bin/false"}]}
        bundle.save()
        done = runtime.detached("run", *flags, "-b", str(bundle.path), "c", check=False)
        assert done.returncode == 1
        assert runtime("list", "-q").stdout.split() == (["c"] if flags == ["--keep"] else [])
        assert bundle.has_cgroup() == (flags == ["--keep"])

    def test_an_exec_whose_pid_file_cannot_be_written(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.detached("run", "-d", "-b", str(runtimes.sleeper(tmp_path).path), "c")
        for flags in ([], ["--detach"]):
            argv = ("exec", *flags, "--pid-file", str(tmp_path / "none/pid"), "c", "sleep", "77")
            assert runtime.detached(*argv, check=False).returncode == 255
            there = runtime("ps", "c", check=True).stdout
            assert ("sleep 1000" in there, "sleep 77" in there) == (True, False)
