"""Both runtimes side by side: the same verbs in the same order give the same texts, exit codes and states.

A scenario is a list of command lines; `C` stands for the container's id.  What differs by nature (pids, times, the
program's own name) is made equal by one table, NORMAL.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import paths, peers, runtimes
from support.runtimes import Bundle, Runtime

NORMAL = (
    (re.compile(r"\bcorten-runtime\b"), "RUNTIME"),  # each names itself
    (re.compile(r"\brunc\b"), "RUNTIME"),
    (re.compile(r'time="[^"]*"'), "TIME"),  # of the log line
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "STAMP"),  # of creation
    (re.compile(r'("pid":\s*)[1-9]\d*'), r"\1PID"),
    (re.compile(r'("ociVersion":\s*)"[^"]*"'), r'\1"VERSION"'),  # of the specification that each implements
    (re.compile(r"Incorrect Usage.*", re.DOTALL), "HELP"),  # each has its own help
    (re.compile(r"/tmp/corten-test-\S*?/(ours|theirs)"), "FOLDER"),
    (re.compile(r"^(C\s+)\d+ +", re.MULTILINE), r"\1PID "),
    (re.compile(r" {2,}"), "  "),  # column widths follow the length of paths
)

# of Linux on x86-64 and arm64, as Go's x/sys/unix has them
NAMES = """
HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ
VTALRM PROF WINCH IO PWR SYS
"""

# keys of our own in the state, which runc does not have
OWN_KEYS = ("corten",)

SCENARIOS: dict[str, list[str]] = {
    "nobody": [
        "state C", "start C", "kill C", "kill C 9", "delete C", "delete --force C", "exec C true", "pause C",
        "resume C", "ps C", "update --memory 100000000 C", "list", "list -q", "list -f json", "list -f foo",
    ],
    "a life": [
        "create C", "state C", "create C", "start C", "start C", "state C", "list -f json", "list -q", "delete C",
        "kill C KILL", "WAIT stopped", "state C", "start C", "kill C KILL", "kill C 0", "kill -a C KILL",
        "exec C true", "pause C", "resume C", "ps -f json C", "update --memory 100000000 C", "delete C", "delete C",
    ],
    "created": ["create C", "exec C true", "kill C 0", "delete C", "state C"],
    "created and killed": ["create C", "kill C KILL", "WAIT stopped", "state C", "start C", "delete C", "state C"],
    "exec": [
        "create C", "start C", "exec C true", "exec C false", "exec C sh -c 'exit 42'", "exec C sh -c 'kill -9 $$'",
        "exec C nosuch", "exec C /nosuch", "exec C /etc", "exec --cwd /nodir C true", "exec --cwd /tmp C pwd",
        "exec -e A=1 C sh -c 'echo $A $HOME $PATH $TERM'", "exec -u 1000:1000 C id -u",
        "exec -u 1000 -g 7 -g 8 C id -G",
        "exec --cwd tmp C pwd", "exec -t --console-socket /nonexistent C true",
        "exec --console-socket /nonexistent C true",
        "exec --detach C true", "exec C", "exec -p /nonexistent C", "kill C KILL", "WAIT stopped", "delete C",
    ],
    "pause": [
        "create C", "start C", "pause C", "state C", "pause C", "exec C true", "list -f json", "start C", "delete C",
        "resume C", "state C", "resume C", "exec C true", "delete --force C", "state C",
    ],
    "signals": [
        "create C", "start C", "kill C NOSIG", "kill C 99", "kill C 0", "kill C SIGUSR1", "kill C 10", "kill C usr1",
        "state C", "kill C 65", "kill C RTMIN", "kill C RTMIN+3", "kill C ''", "kill C 64", "kill -a C 0",
        "kill C 99999999999", "kill C ²", "kill C +10", "kill C 99999999999999999999",
        # all that it knows, but for those that even the init of a pid namespace obeys
        *(f"kill C {name}" for name in NAMES.split() if name not in ("KILL", "STOP")),
        *(f"kill C SIG{name.lower()}" for name in NAMES.split()[:3]),
        "kill C STOP", "kill C CONT", "state C", "delete -f C", "delete -f C", "kill C",
    ],
    "capabilities": [
        "create C", "start C", "exec --cap CAP_OF_TOMORROW C true", "exec -c CAP_KILL -c kill -c CAP_CHOWN C true",
        "delete -f C",
    ],
    "spec": ["spec", "spec -b /nonexistent", "spec -b /etc/passwd"],
    "wrong words": ["create a/b", "create ..", "create ''", "create --bundle /nonexistent C", "run --nope C"],
    "a log that cannot be opened": [
        "--log /nope/x list", "--log /nope/x state C", "--log /nope/x create C", "--log /nope/x run C",
        "--log /nope/x exec C true", "--log /nope/x --log-format json kill C", "--log /etc list -q", "list -q",
    ],
    "run": ["run --console-socket /nonexistent C", "run C", "state C", "run --keep C", "state C", "run C", "delete C"],
    "update": ["create C", "start C", "update --pids-limit 20 --cpu-share 100 C", "LIMITS", "delete -f C"],
    "events": [
        "events C", "events --stats C", "create C", "start C", "events --interval x C", "events --interval 0s C",
        "events --interval -1s C", "events --interval 5 C", "events --stats=maybe C", "kill C KILL", "WAIT stopped",
        "events C", "events --stats C", "delete C",
    ],
    "checkpoint": [  # where there is no criu; with one: guest/runtime/test_3_checkpoint.py
        "checkpoint C", "create C", "checkpoint C", "start C",
        # to leave it running, or runc tries to remove it first
        *(
            f"checkpoint --leave-running {flags} C"
            for flags in (
                "--manage-cgroups-mode hard", "--empty-ns pid", "--page-server here", "--page-server here:x",
                "--parent-path /abs", "--parent-path ../none", "--parent-path ../config.json", "--empty-ns network",
            )
        ),
        "state C", "kill C KILL", "WAIT stopped", "checkpoint C", "delete C",
    ],
    "update in words": [
        "create C", "start C", "update --memory x C", "update --memory 64mib C", "LIMITS", "update --memory-swap -2 C",
        "update --memory 1.5g --memory-swap 2G --memory-reservation 10m C", "LIMITS",
        "update --memory-swap -1 C", "update --memory -1 C", "LIMITS", "update --memory= C", "update --memory 5_0 C",
        "update --cpu-period x C", "update --cpu-quota -1x C", "update --cpu-share -3 C", "update --cpu-period +5 C",
        "update --cpu-period 50000 --cpu-quota 20000 C", "LIMITS", "update --cpu-quota -1 C", "LIMITS",
        "update --kernel-memory 1m C", "update --kernel-memory-tcp 1m C", "update --pids-limit 0 C", "LIMITS",
        "update --pids-limit -1 C", "update --cpuset-cpus 1 C", "LIMITS",
        "update --pids-limit 99999999999999999999 C", "update --blkio-weight x C", "update C",
        "update -r /nonexistent C", "delete -f C", "update --memory 5_0 C",
    ],
}  # fmt: skip

LIMITS = (
    *(("memory", f"memory.{name}_in_bytes") for name in ("limit", "soft_limit", "memsw.limit")),
    *(("cpu", f"cpu.{name}") for name in ("shares", "cfs_period_us", "cfs_quota_us")),
    ("cpuset", "cpuset.cpus"),
)

PROGRAMS = {"run": ("sh", "-c", "echo out; echo err >&2; exit 7")}
DEFAULT_PROGRAM = ("sleep", "1000")


class Side:
    """One runtime and its bundle, with a transcript of what it said."""

    def __init__(self, program: Path, folder: Path, args: tuple[str, ...]) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "bundle").mkdir()
        self.bundle: Bundle = runtimes.bundle(*args, folder=folder / "bundle")
        self.bundle.config["linux"]["cgroupsPath"] += f"-{folder.name}"
        self.bundle.save()
        self.runtime = Runtime(program, folder / "root")
        self.transcript: list[tuple[str, int, str, str]] = []

    def step(self, line: str) -> None:
        """Runs one line of a scenario in the bundle's directory."""
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)]
        if words[0] == "WAIT":
            self.runtime.wait_for("C", words[1])
            time.sleep(0.05)  # runc takes the status from the pid alone; let the reaper have it
            return
        if words[0] == "LIMITS":
            self.transcript.append((line, 0, " ".join(self.bundle.cgroup(*place) for place in LIMITS), ""))
            return
        if words[0] in ("create",) or "--detach" in words:
            out = self.folder / "out"
            argv = [*words[:1], "--bundle", str(self.bundle.path), *words[1:]] if words[0] == "create" else words
            if "--bundle" in words:
                argv = words
            done = self.runtime.detached(*argv, output=out, check=False)
        else:
            done = self.runtime(*words, cwd=self.bundle.path)
        self.transcript.append((line, done.returncode, normal(done.stdout), normal(done.stderr)))

    def close(self) -> None:
        self.runtime.close()


def normal(text: str) -> str:
    """`text` with everything made equal that differs by nature."""
    text = without_own_keys(text)
    for pattern, replacement in NORMAL:
        text = pattern.sub(replacement, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def without_own_keys(text: str) -> str:
    """A JSON object or array of them without OWN_KEYS; any other text as it is."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return text
    for row in found if isinstance(found, list) else [found]:
        if isinstance(row, dict):
            for key in OWN_KEYS:
                row.pop(key, None)
    indent = 2 if "\n" in text.strip() else None
    separators = (",", ": ") if indent else (",", ":")
    return json.dumps(found, indent=indent, separators=separators)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_texts_are_those_of_runc(name: str, folder: Path) -> None:
    args = PROGRAMS.get(name, DEFAULT_PROGRAM)
    sides = [
        Side(paths.COMMANDS / "corten-runtime", folder / "ours", args),
        Side(peers.binary("runc"), folder / "theirs", args),
    ]
    try:
        for line in SCENARIOS[name]:
            for side in sides:
                side.step(line)
        ours, theirs = (side.transcript for side in sides)
        assert ours == theirs
    finally:
        for side in sides:
            side.close()


@pytest.fixture
def both(folder: Path) -> Iterator[list[Side]]:
    """Corten's runtime and runc, each with a bundle that does nothing."""
    programs = {"ours": paths.COMMANDS / "corten-runtime", "theirs": peers.binary("runc")}
    sides = [Side(program, folder / name, ("true",)) for name, program in programs.items()]
    yield sides
    for side in sides:
        side.close()


def test_a_log_is_made_before_there_is_anything_to_say(both: list[Side]) -> None:
    for side in both:
        assert side.runtime("--log", str(side.folder / "log"), "list").returncode == 0
        assert (side.folder / "log").read_bytes() == b""


@pytest.mark.parametrize("text", ["no json", '{"ociVersion":', "", "[]", '{"process": 3}', '{"ociVersion": 3}'])
def test_a_config_that_is_none_is_refused_and_named(both: list[Side], text: str) -> None:
    for side in both:
        (side.bundle.path / "config.json").write_text(text)
        side.step("run C")
    (_, ours, _, said), (_, theirs, _, _) = (side.transcript[-1] for side in both)
    assert (ours, theirs) == (1, 1)
    assert "config.json" in said  # runc names no file


# a command line for every way in which a verb can fail, with a running container C
FAILING = (
    "start C", "start D", "kill D", "kill C FOO", "kill", "delete D", "delete C", "pause D", "resume C", "resume D",
    "state D", "ps D", "ps -f x C", "events --stats D", "events --interval 0s C", "update D", "update --memory x C",
    "exec D true", "exec C nosuch", "exec C", "exec -u 0 --cwd /nodir C true", "checkpoint D", "list -f x",
    "spec -b /nonexistent", "run -b /nonexistent D", "create -b /nonexistent D", "create C", "features x", "version x",
    "run --nope D", "list --nope", "kill C SIGRTMAX", "exec --preserve-fds x C true", "nosuchverb",
)  # fmt: skip


@pytest.mark.parametrize("line", FAILING)
def test_the_last_line_of_the_log_is_the_error_whatever_fails(living: list[Side], line: str) -> None:
    last = {}
    for side in living:
        log = side.folder / "log.json"
        log.unlink(missing_ok=True)
        done = side.runtime("--log", str(log), "--log-format", "json", *line.split(), cwd=side.bundle.path)
        assert done.returncode != 0
        rows = [json.loads(row) for row in log.read_text().splitlines()]
        assert {*rows[-1]} == {"level", "msg", "time"}
        assert rows[-1]["msg"].strip() in done.stderr
        last[side.folder.name] = (rows[-1]["level"], normal(re.sub(r"\S+/runc", "runc", rows[-1]["msg"])))
    if line != "version x":  # a verb that runc has not
        assert last["ours"] == last["theirs"]


@pytest.fixture(scope="module")
def living() -> Iterator[list[Side]]:
    """Corten's runtime and runc, each with a running container."""
    folder = paths.scratch("failing")
    programs = {"ours": paths.COMMANDS / "corten-runtime", "theirs": peers.binary("runc")}
    sides = [Side(program, folder / name, ("sleep", "1000")) for name, program in programs.items()]
    try:
        for side in sides:
            side.runtime.detached("run", "-d", "-b", str(side.bundle.path), "C")
        yield sides
    finally:
        for side in sides:
            side.close()
        shutil.rmtree(folder)


FILE, FOLDER = "source/file", "source"
# mount: (destination, type, source, whether it starts)
PROC_MOUNTS = {
    "a folder on /proc": ("/proc", "bind", FOLDER, False),
    "a folder on /proc by another name": ("/sys/../proc/", "bind", FOLDER, False),
    "a folder on a link to /proc": ("/way", "bind", FOLDER, False),
    "a folder behind a link to /proc": ("/way/tty", "bind", FOLDER, False),
    "a folder in /proc": ("/proc/tty", "bind", FOLDER, False),
    "a file in /proc": ("/proc/version", "bind", FILE, False),
    "tmpfs on /proc": ("/proc", "tmpfs", "tmpfs", False),
    "sysfs on /proc": ("/proc", "sysfs", "sysfs", False),
    "the host's /proc on /proc": ("/proc", "bind", "/proc", True),
    "the host's /proc elsewhere": ("/host", "bind", "/proc", True),
    "what lxcfs emulates": ("/proc/uptime", "bind", FILE, True),
    "what lxcfs emulates, deep": ("/proc/sys/kernel/ns_last_pid", "bind", FILE, True),
    "tmpfs on /sys": ("/sys", "tmpfs", "tmpfs", True),
}


@pytest.mark.parametrize(
    ("name", "in_place"),
    [(name, False) for name in PROC_MOUNTS] + [(name, True) for name, row in PROC_MOUNTS.items() if row[0] == "/proc"],
    ids=lambda value: {False: "after proc", True: "instead of proc"}.get(value, value),
)
def test_proc_is_covered_where_runc_lets_it_be(both: list[Side], name: str, in_place: bool) -> None:
    destination, kind, source, starts = PROC_MOUNTS[name]
    for side in both:
        (side.folder / FOLDER).mkdir()
        (side.folder / FILE).write_text("of the host")
        rootfs = side.bundle.path / "rootfs"
        (rootfs / "way").symlink_to("proc")
        (rootfs / "host").mkdir()
        given = str(side.folder / source) if kind == "bind" else source  # an absolute source stays as it is
        mount = {"destination": destination, "type": kind, "source": given, "options": ["bind"] * (kind == "bind")}
        mounts = side.bundle.config["mounts"]
        mounts[:] = [mount, *mounts[1:]] if in_place else [*mounts, mount]
        side.bundle.config["linux"]["readonlyPaths"] = []
        side.bundle.save()
        side.step("run C")
    (_, ours, _, said), (_, theirs, _, _) = (side.transcript[-1] for side in both)
    assert (ours == 0, theirs == 0) == (starts, starts), said
    if not starts:
        assert "/proc" in said
        assert "cannot be mounted" in said
