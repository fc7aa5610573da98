"""The corten CLI beside docker's, against the same engine: the same output, errors and exit codes.

What differs on purpose is the program's name, and docker's hint lines that name its own commands.
"""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, paths, peers
from support.dockerd import client_environment
from support.engine import CortenEngine

IMAGE = images.BUSYBOX_REF
NAME = re.compile(r"\b(docker|corten)\b")


def both(engine: CortenEngine, *args: str, stdin: str | None = None) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of docker's CLI and of ours."""
    found = []
    for done in (engine.docker(*args, stdin=stdin), engine.corten(*args, stdin=stdin)):
        out = done.stdout.replace("\r\n", "\n")  # of the two helpers one translates line ends
        found.append((done.returncode, out, NAME.sub("CLI", done.stderr).strip()))
    return found


@pytest.fixture(scope="module")
def box(shared_engine: CortenEngine) -> Iterator[CortenEngine]:
    """The engine with a running container `cli-box`, a stopped one and an old one."""
    engine = shared_engine
    publish = ("-p", "127.0.0.1:8901:80", "--label", "corten.test=cli", "-e", "A=b")
    engine.docker("run", "-d", "--name", "cli-box", *publish, IMAGE, "sleep", "1000", check=True)
    engine.docker("run", "--name", "cli-done", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3")
    yield engine
    engine.docker("rm", "-f", "cli-box", "cli-done", check=True)


SAME = [
    ("ps", "-aq", "--filter", "name=cli-"),
    ("ps", "-a", "--filter", "name=cli-", "--format", "{{.Names}}\t{{.State}}\t{{.Ports}}\t{{.Command}}\t{{.Image}}"),
    ("ps", "-a", "--filter", "name=cli-", "--format", "table {{.ID}}\t{{.Names}}\t{{.State}}"),
    *(
        ("ps", "-a", "--filter", "name=cli-", "--format", form)
        for form in ("{{.State | }}", "{{.State | | json}}", "{{json .Label}}", '{{.Label "a" "b"}}', "{{.Label 5}}")
    ),
    ("ps", "--format", "{{()}}"),
    ("ps", "-a", "--filter", "status=nonsense"),
    ("ps", "-a", "--filter", "nonsense=1"),
    ("ps", "--filter", "label=corten.test=cli", "--format", "{{.Labels}} {{.Networks}} {{.Mounts}}"),
    ("container", "ls", "-a", "--filter", "name=cli-done", "-q"),
    ("inspect", "cli-box"),
    ("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{json .Config.Env}}", "cli-box", "cli-done"),
    ("inspect", "-f", "{{range .NetworkSettings.Ports}}{{(index . 0).HostPort}}{{end}}", "cli-box"),
    ("inspect", IMAGE),
    ("inspect", "no-such-thing"),
    ("inspect", "--type", "container", "no-such-thing"),
    ("container", "inspect", "no-such-thing"),
    ("image", "inspect", IMAGE),
    ("logs", "cli-done"),
    ("logs", "--tail", "0", "cli-done"),
    ("logs", "-t", "cli-done"),
    ("logs", "no-such-thing"),
    ("exec", "cli-box", "echo", "-n", "hi"),
    ("exec", "-e", "X=1", "-w", "/tmp", "-u", "1000", "cli-box", "sh", "-c", "echo $X $PWD $(id -u); exit 4"),
    ("exec", "cli-box", "no-such-program"),
    ("exec", "cli-box", "/etc/passwd"),
    ("exec", "cli-done", "true"),
    ("exec", "no-such-thing", "true"),
    ("port", "cli-box"),
    ("port", "cli-box", "80"),
    ("port", "cli-box", "81"),
    ("top", "no-such-thing"),
    ("wait", "cli-done"),
    ("wait", "no-such-thing"),
    ("start", "no-such-thing"),
    ("start", "cli-box"),
    ("stop", "no-such-thing"),
    ("kill", "cli-done"),
    ("rm", "no-such-thing"),
    ("rm", "cli-box"),
    ("rename", "cli-box", "cli-done"),
    ("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}"),
    ("images", "-q", "--no-trunc", IMAGE),
    ("images", "no/such"),
    ("history", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}} {{.Comment}}", IMAGE),
    ("history", "no/such"),
    ("rmi", "no/such"),
    ("tag", "no/such", "some/name"),
    ("tag", IMAGE, "Not/Valid"),
    ("run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7"),
    ("run", "--rm", IMAGE, "no-such-program"),
    ("run", "--rm", IMAGE, "/etc/passwd"),
    ("run", "--rm", "-m", "1k", IMAGE, "true"),
    ("run", "--rm", "--cpus", "1000", IMAGE, "true"),
    ("run", "--rm", "--runtime", "nonsense", IMAGE, "true"),
    ("run", "--rm", "--name", "cli-box", IMAGE, "true"),
    *(
        ("run", "--rm", "--add-host", host, IMAGE, "grep", "added", "/etc/hosts")
        for host in ("added=1.2.3.4", "added:[::1]", "added=host-gateway", "added:b=1.2.3.4", "added:[1.2.3.4")
    ),
    ("run", "--rm", "-w", "relative", IMAGE, "true"),
    ("run", "--rm", "--cap-add", "NONSENSE", IMAGE, "true"),
    ("run", "--rm", "-v", "/no/such:/x:nonsense", IMAGE, "true"),
    ("run", "--rm", "--entrypoint", "echo", IMAGE, "a", "b"),
    ("run", "--rm", "-h", "there", "-e", "A=1", IMAGE, "sh", "-c", "hostname; echo $A"),
    ("create", "--nonsense", IMAGE),
    ("events", "--since", "1", "--until", "2"),
]


@pytest.mark.parametrize("args", SAME, ids=" ".join)
def test_same_command_same_answer(box: CortenEngine, args: tuple[str, ...]) -> None:
    theirs, ours = both(box, *args)
    assert ours == theirs


def test_stdin_goes_through(box: CortenEngine) -> None:
    theirs, ours = both(box, "run", "--rm", "-i", IMAGE, "wc", "-c", stdin="12345\n")
    assert ours == theirs == (0, "6\n", "")


def test_life_of_a_container(box: CortenEngine) -> None:
    patient = ("--stop-timeout", "300")  # of a process that no SIGTERM ends: only -t 0 shortens it
    created = box.corten("create", "--name", "cli-life", *patient, IMAGE, "sleep", "1000", check=True).stdout.strip()
    assert len(created) == 64
    for verb in ("start", "pause", "unpause", "restart", "stop"):
        extra = ["-t", "0"] if verb in {"restart", "stop"} else []
        assert box.corten(verb, *extra, "cli-life").stdout == "cli-life\n", verb
    assert box.corten("inspect", "-f", "{{.State.Status}}", "cli-life").stdout == "exited\n"
    assert box.corten("rename", "cli-life", "cli-renamed", check=True).stdout == ""
    assert box.corten("rm", "cli-renamed").stdout == "cli-renamed\n"


def test_detached_run_prints_the_id_and_attach_brings_the_exit_code(box: CortenEngine) -> None:
    script = "while [ ! -e /go ]; do echo up; sleep 0.05; done; echo done; exit 9"
    made = box.corten("run", "-d", "--rm", "--name", "cli-attach", IMAGE, "sh", "-c", script, check=True).stdout
    assert re.fullmatch(r"[0-9a-f]{64}\n", made)
    argv = [str(paths.COMMANDS / "corten"), "-H", box.host, "attach", "cli-attach"]
    attached = subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert attached.stdout is not None
    assert attached.stdout.readline() == "up\n"
    box.corten("exec", "cli-attach", "touch", "/go", check=True)
    assert attached.communicate(timeout=60)[0].endswith("done\n")  # after no `up` more, when the exec was quick
    assert attached.returncode == 9


def terminal(argv: list[str], typed: bytes, until: bytes) -> bytes:
    """What a program shows on a terminal of 100 columns, after something was typed."""
    leader, follower = pty.openpty()
    environment = client_environment() | {"TERM": "xterm"}
    process = subprocess.Popen(argv, stdin=follower, stdout=follower, stderr=follower, env=environment, close_fds=True)
    os.close(follower)
    shown, end = b"", time.monotonic() + 60
    os.write(leader, typed)
    while until not in shown and time.monotonic() < end:
        ready, _, _ = select.select([leader], [], [], 0.5)
        try:
            shown += os.read(leader, 4096) if ready else b""
        except OSError:
            break
    process.wait(timeout=60)
    os.close(leader)
    return shown


def test_terminal_is_one_inside_too(box: CortenEngine) -> None:
    for program in (str(peers.docker_cli()), str(paths.COMMANDS / "corten")):
        argv = [program, "-H", box.host, "run", "--rm", "-it", IMAGE, "sh"]
        assert b"/dev/pts/0" in terminal(argv, b"tty; exit\n", b"/dev/pts/0\r\n")


def test_detach_keys_leave_the_container_running(box: CortenEngine) -> None:
    argv = [str(paths.COMMANDS / "corten"), "-H", box.host, "run", "-it", "--name", "cli-keys", IMAGE, "sh"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(argv, stdin=follower, stdout=follower, stderr=follower, env=client_environment())
    os.close(follower)
    assert select.select([leader], [], [], 60)[0]
    os.write(leader, b"\x10\x11")
    assert process.wait(timeout=60) == 0
    os.close(leader)
    assert box.corten("inspect", "-f", "{{.State.Running}}", "cli-keys").stdout == "true\n"
    box.corten("rm", "-f", "cli-keys", check=True)


def test_load_and_remove_an_image(box: CortenEngine, tmp_path: Path) -> None:
    loaded = box.corten("load", "-i", str(images.busybox()))
    assert loaded.stdout == f"Loaded image: {IMAGE}\n"
    assert box.corten("tag", IMAGE, "cli/other:2").returncode == 0
    assert box.corten("rmi", "cli/other:2").stdout == "Untagged: cli/other:2\n"


def test_explain_starts_nothing_and_names_origins(box: CortenEngine) -> None:
    before = box.corten("ps", "-aq").stdout
    text = box.corten("run", "--explain", "-m", "64m", IMAGE, "true", check=True).stdout
    assert re.search(r"Memory\s+flag\s+67108864", text)
    assert re.search(r"PidsLimit\s+(built-in|daemon\.json)\s+500", text)
    assert "clone3" in text
    assert box.corten("ps", "-aq").stdout == before


def test_trace_is_widest_first_unless_asked_for_in_order(box: CortenEngine) -> None:
    text = box.corten("trace", "cli-box", check=True).stdout
    times = [float(t) for t in re.findall(r"^(\d+) µs +[\d.]+ %", text, re.M)]
    assert len(times) > 50
    assert times == sorted(times, reverse=True)


def test_trace_shows_phases_and_steps(box: CortenEngine) -> None:
    text = box.corten("trace", "--order", "cli-box", check=True).stdout
    assert "clone3" in text
    assert re.search(r"\d+\.\d\d ms in \d+ steps", text)


def test_a_link_local_address_is_on_the_interface(box: CortenEngine) -> None:
    done = box.corten("run", "--rm", "--link-local-ip", "169.254.1.1", IMAGE, "ip", "-o", "addr", "show", "eth0")
    assert "inet 169.254.1.1/16" in done.stdout, done.stderr


def test_engine_that_does_not_answer_is_named() -> None:
    argv = [str(paths.COMMANDS / "corten"), "-H", "unix:///nonexistent/corten.sock", "ps"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "cannot connect to the corten engine at unix:///nonexistent/corten.sock. Is cortend running?\n"
    )
