"""Hooks of the host's side: what they get, and how their failures are told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from corten.errors import FailedPrecondition
from corten.runtime import hooks

STATE = {"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": 7, "bundle": "/b"}


def shell(script: str, timeout: int = 0, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": [], "timeout": timeout, **more}


def test_a_hook_without_an_environment_has_that_of_the_runtime(tmp_path: Path) -> None:
    hooks.run_all([shell(f"env > {tmp_path}/env", env=None)], STATE, str(tmp_path))
    assert f"PATH={os.environ['PATH']}\n" in (tmp_path / "env").read_text()


def test_a_hook_gets_the_state_on_stdin_and_its_own_environment_in_the_bundle(tmp_path: Path) -> None:
    script = f'cat > state; echo "$A,$HOME" > {tmp_path}/env'
    hooks.run_all([shell(script, env=["A=1=2"])], STATE, str(tmp_path))
    assert json.loads((tmp_path / "state").read_text()) == STATE
    assert (tmp_path / "env").read_text() == "1=2,\n"


def test_a_hook_inherits_no_descriptor_and_no_ignored_signal(tmp_path: Path) -> None:
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        hooks.run(shell("ls /proc/self/fd > fds; grep SigIgn /proc/self/status > ignored"), b"{}", str(tmp_path))
    finally:
        os.close(leak)
    assert (tmp_path / "fds").read_text().split() == ["0", "1", "2", "3"]
    glibc_own = 0b11 << 31  # signals 32 and 33, which no program can change
    assert int((tmp_path / "ignored").read_text().split()[1], 16) & ~glibc_own == 0


def test_the_caller_stays_where_it_was(tmp_path: Path) -> None:
    before = os.getcwd()
    hooks.run(shell("true"), b"{}", str(tmp_path))
    assert os.getcwd() == before


def test_a_state_larger_than_a_pipe_reaches_a_hook_that_reads_late(tmp_path: Path) -> None:
    hooks.run(shell("sleep 0.1; wc -c > size"), b"x" * 300_000, str(tmp_path))
    assert (tmp_path / "size").read_text().strip() == "300000"


def test_a_failure_names_the_hook_and_has_its_output(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        hooks.run_all([shell("true"), shell("echo out; echo err >&2; exit 3")], STATE, str(tmp_path))
    assert str(caught.value) == (
        "error running hook #1: error running hook: exit status 3, stdout: out\n, stderr: err\n"
    )


def test_a_hook_that_a_signal_ends_has_failed(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="signal: terminated"):
        hooks.run(shell("kill $$"), b"", str(tmp_path))


def test_a_missing_program_is_told_in_the_words_of_runc(tmp_path: Path) -> None:
    hook = {"path": "/bin/nosuch", "args": [], "env": [], "timeout": 0}
    with pytest.raises(FailedPrecondition, match=r"^error running hook #0: fork/exec /bin/nosuch: no such file or dir"):
        hooks.run_all([hook], STATE, str(tmp_path))


def test_a_hook_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(FailedPrecondition, match=r"^hook ran past specified timeout of 1\.0s$"):
        hooks.run(shell("exec sleep 50", timeout=1), b"", str(tmp_path))
    assert time.monotonic() - began < 30


def test_a_hook_may_have_more_time_than_one_poll_can_wait(tmp_path: Path) -> None:
    hooks.run(shell("sleep 0.1; touch done", timeout=(1 << 32) - 1), b"", str(tmp_path))
    assert (tmp_path / "done").exists()


def test_a_grandchild_that_keeps_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    hooks.run(shell("sleep 20 & echo $! > pid"), b"", str(tmp_path))
    assert time.monotonic() - began < 15
    os.kill(int((tmp_path / "pid").read_text()), 9)


def sleeping(seconds: int) -> int:
    """The pid of a child that does nothing."""
    return os.posix_spawn("/bin/sleep", ["sleep", str(seconds)], {})


@pytest.mark.timeout(40)
def test_a_hook_that_always_has_something_to_say_is_killed_in_time() -> None:
    loud = [os.open("/dev/zero", os.O_RDONLY) for _ in range(2)]  # as a pipe that somebody fills faster than it is read
    with pytest.raises(FailedPrecondition, match=r"^hook ran past specified timeout of 1\.0s$"):
        hooks._follow(sleeping(50), 1, (loud[0], loud[1]), -1)


@pytest.mark.timeout(40)
def test_a_grandchild_that_never_stops_writing_is_not_waited_for() -> None:
    loud = [os.open("/dev/zero", os.O_RDONLY) for _ in range(2)]
    hooks._follow(sleeping(0), 0, (loud[0], loud[1]), -1)


@pytest.mark.parametrize("rows", [["=nobody", "A=1", ""], ["A=1", "none"]])
def test_a_row_of_the_environment_without_a_name_is_left_out(rows: list[str], tmp_path: Path) -> None:
    hooks.run(shell("env > env", env=rows), b"{}", str(tmp_path))
    found = (tmp_path / "env").read_text()
    assert "A=1\n" in found
    assert "nobody" not in found


def test_much_output_does_not_block_a_hook(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        hooks.run(shell("head -c 500000 /dev/zero | tr '\\0' x; exit 1"), b"", str(tmp_path))
    assert len(str(caught.value)) < 5000


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    hooks.run(shell("true"), b"{}", str(tmp_path))
    with pytest.raises(FailedPrecondition):
        hooks.run({"path": "/bin/nosuch", "args": [], "env": [], "timeout": 0}, b"", str(tmp_path))
    assert set(os.listdir("/proc/self/fd")) <= before
