"""Terminals and hooks of `corten-runtime`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import peers, runtimes
from support.console import ConsoleSocket, read_until
from support.runtimes import Runtime

CGROUPS = Path("/sys/fs/cgroup")


# terminals -------------------------------------------------------------------------------------------------


def test_the_master_of_the_terminal_goes_to_the_console_socket(corten: Runtime, folder: Path) -> None:
    script = "tty; test -t 0 && test -t 1 && test -t 2 && echo yes; stty size; read x; echo got $x"
    bundle = runtimes.bundle("sh", "-c", script, folder=folder / "bundle", terminal=True)
    bundle.config["process"]["consoleSize"] = {"width": 90, "height": 33}
    bundle.save()
    console = ConsoleSocket(folder / "console")
    corten.detached("create", "--bundle", str(bundle.path), "--console-socket", str(console.path), "c")
    master = console.master()
    corten("start", "c", check=True)
    shown = read_until(master, b"33 90")
    assert shown.split() == [b"/dev/pts/0", b"yes", b"33", b"90"]
    os.write(master, b"word\n")
    read_until(master, b"got word")
    os.close(master)


def test_an_exec_may_have_a_terminal_of_its_own(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    corten.detached("run", "-d", "-b", str(bundle.path), "c")
    console = ConsoleSocket(folder / "console")
    corten.detached("exec", "-d", "-t", "--console-socket", str(console.path), "c", "sh", "-c", "tty; echo end")
    master = console.master()
    assert b"/dev/pts/" in read_until(master, b"end")
    os.close(master)


def test_a_console_socket_at_a_long_path_is_reached(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.bundle("sh", "-c", "echo here; sleep 1000", folder=folder / "bundle", terminal=True)
    deep = folder / ("d" * 90) / ("e" * 60)
    deep.mkdir(parents=True)
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(deep, os.O_PATH)
    listener.bind(f"/proc/self/fd/{directory}/console")
    os.close(directory)
    listener.listen()
    corten.detached("create", "--bundle", str(bundle.path), "--console-socket", str(deep / "console"), "c")
    listener.close()


def test_run_in_a_terminal_copies_both_ways(corten: Runtime, folder: Path) -> None:
    script = "stty -echo; echo ready; read x; echo got $x; stty size; exit 4"
    bundle = runtimes.bundle("sh", "-c", script, folder=folder / "bundle", terminal=True)
    master, slave = os.openpty()
    subprocess.run(["stty", "-F", os.ttyname(slave), "rows", "41", "cols", "77"], check=True)
    argv = corten.argv("run", "-b", str(bundle.path), "c")
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as run:
        read_until(master, b"ready")
        os.write(master, b"word\n")
        shown = read_until(master, b"41 77")
        assert b"got word\r\n" in shown
        assert run.wait(60) == 4
    settings = subprocess.run(["stty", "-F", os.ttyname(slave)], check=True, capture_output=True, text=True).stdout
    assert "-icanon" not in settings, "the caller's terminal is as it was"
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize(
    ("terminal", "words", "text"),
    [
        (True, (), "cannot allocate tty if corten-runtime will detach without setting console socket"),
        (False, ("--console-socket", "SOCKET"), "cannot use console socket if corten-runtime will not detach"),
    ],
)
def test_a_terminal_and_a_console_socket_need_each_other(
    corten: Runtime, folder: Path, terminal: bool, words: tuple[str, ...], text: str
) -> None:
    bundle = runtimes.bundle("true", folder=folder / "bundle", terminal=terminal)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "console"))
        listener.listen()
        words = tuple(word.replace("SOCKET", str(folder / "console")) for word in words)
        assert text in corten("create", "--bundle", str(bundle.path), *words, "c").stderr


# hooks -----------------------------------------------------------------------------------------------------


def hook(folder: Path, name: str, more: str = "") -> dict[str, Any]:
    script = f"cat >> {folder}/hook-{name}; echo {name} >> {folder}/order; {more}"
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 10}


def test_hooks_run_in_order_with_the_state_on_stdin(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    names = ("prestart", "createRuntime", "poststart", "poststop")
    bundle.config["hooks"] = {name: [hook(folder, name)] for name in names}
    bundle.config["annotations"] = {"a": "b"}
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "c")
    assert (folder / "order").read_text().split() == ["prestart", "createRuntime"]
    pid = corten.state("c")["pid"]
    corten("start", "c", check=True)
    corten("delete", "--force", "c", check=True)
    assert (folder / "order").read_text().split() == list(names)
    states = {name: json.loads((folder / f"hook-{name}").read_text()) for name in names}
    assert [states[name]["status"] for name in names] == ["creating", "creating", "running", "stopped"]
    for name in names[:3]:
        assert states[name]["pid"] == pid
    assert all(state["id"] == "c" and state["annotations"] == {"a": "b"} for state in states.values())
    assert all(state["bundle"] == str(bundle.path) for state in states.values())


def test_a_prestart_hook_sees_the_namespaces_of_the_container(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    script = (
        f"pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net /proc/self/ns/net > {folder}/net"
    )
    bundle.config["hooks"] = {
        "prestart": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]
    }
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "c")
    theirs, ours = (folder / "net").read_text().split()
    assert theirs != ours == os.readlink("/proc/self/ns/net")


ENDS: dict[str, dict[str, Any]] = {
    "output": {"args": ["sh", "-c", "echo out; echo why >&2; exit 9"]},
    "status": {"args": ["sh", "-c", "exit 3"]},
    "signal": {"args": ["sh", "-c", "echo a; kill -15 $$"]},
    "timeout": {"args": ["sh", "-c", "exec sleep 9"], "timeout": 1},
    "no program": {"path": "/nowhere"},
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer"])
def test_a_hook_that_fails_is_told_as_runc_tells_it(corten: Runtime, folder: Path, kind: str, name: str) -> None:
    """With what it said; behind it the step of the plan, where it is one."""
    told = []
    for runtime in (corten, Runtime(peers.binary("runc"), folder / "runc")):
        bundle = runtimes.bundle("true", folder=folder / "bundle")
        bundle.config["hooks"] = {kind: [{"path": "/bin/true"}, {"path": "/bin/sh", **ENDS[name]}]}
        if kind == "startContainer":  # where the container's programs are
            bundle.config["hooks"][kind][0] = {"path": "/bin/sh", "args": ["sh", "-c", "true"]}
        bundle.save()
        done = runtime("run", "--bundle", str(bundle.path), "c")
        assert done.returncode == 1
        text = done.stderr.replace("\\n", "\n").replace('"', " ")
        text = re.sub(r" \(step \d+ of \d+\)", "", text)
        told.append(re.sub(r"\s+", " ", text[text.index("error running hook #1: ") :]).strip())
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_a_hook_that_fails_before_the_start_undoes_the_create(corten: Runtime, folder: Path, kind: str) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["hooks"] = {
        kind: [hook(folder, kind, "echo why >&2; exit 9")],
        "poststop": [hook(folder, "poststop")],
    }
    bundle.save()
    done = corten("create", "--bundle", str(bundle.path), "c")
    assert done.returncode == 1
    assert "error during container init: error running hook #0: error running hook: exit status 9" in done.stderr
    assert "why" in done.stderr
    assert not bundle.has_cgroup()
    assert list((folder / "root").iterdir()) == []
    assert (folder / "order").read_text().split() == [kind, "poststop"]


def test_a_poststart_hook_that_fails_ends_the_container(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["hooks"] = {"poststart": [hook(folder, "poststart", "exit 1")]}
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "c")
    assert "error running hook #0" in corten("start", "c").stderr
    corten.wait_for("c", "stopped")


def test_a_poststop_hook_that_fails_is_a_warning(corten: Runtime, folder: Path) -> None:
    bundle = runtimes.sleeper(folder)
    bundle.config["hooks"] = {"poststop": [hook(folder, "first", "exit 1"), hook(folder, "second")]}
    bundle.save()
    corten.detached("create", "--bundle", str(bundle.path), "c")
    done = corten("delete", "c")
    assert done.returncode == 0
    assert "level=warning" in done.stderr
    assert (folder / "order").read_text().split() == ["first", "second"]
