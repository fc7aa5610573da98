"""The node's file with real containers of cortend: taken where the user is silent, told by --explain and inspect."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.runtime.defaults import LOWER_HALF
from support import images, paths, peers, process
from support.engine import CortenEngine

PIDS = 77
KILL = "trap 'echo two' USR2; kill -USR2 $$; trap 'echo one' USR1; kill -USR1 $$; true"
WORDS: dict[str, Any] = {
    "default-pids-limit": PIDS,
    "default-rlimits": [
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
        {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128},
        {"type": "RLIMIT_MEMLOCK", "soft": 1, "hard": 1},  # daemon.json says it, too
    ],
    "masked-paths": ["/proc/version", "/proc/kallsyms"],
    "seccomp": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {
            "names": ["kill"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 16,
            "args": [{"index": 1, "value": LOWER_HALF, "valueTwo": int(signal.SIGUSR1), "op": "SCMP_CMP_MASKED_EQ"}],
        },
    ],
}
LOOK = (
    "grep -E '^Max (core|open)' /proc/1/limits | tr -s ' '; echo masked $(wc -c </proc/version); "
    f"mkdir /tmp/x 2>&1; {KILL.replace('kill -USR1 $$', 'kill -USR1 $$ 2>&1')}"
)
CORE = "Max core file size 0 4096 bytes"
FILES = "Max open files 64 128 files"
NO_MKDIR = "mkdir: can't create directory '/tmp/x': Function not implemented"
NO_KILL = "esource busy"  # musl: Resource busy, glibc: Device or resource busy


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    folder = paths.scratch("node-file")
    path = folder / "runtime.json"
    path.write_text(json.dumps(WORDS))
    yield path
    path.unlink()
    folder.rmdir()


@pytest.fixture(scope="module")
def node(file: Path) -> Iterator[CortenEngine]:
    config = {
        "runtimes": {"crun": {"path": str(peers.crun_for_hybrid())}},
        "default-ulimits": {"memlock": {"Name": "memlock", "Soft": 4096, "Hard": 8192}},
    }
    with CortenEngine(config=config, args=["--node-defaults", str(file)]) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


def printed(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.strip() for line in done.stdout.splitlines()]


def run(node: CortenEngine, *flags: str, script: str = LOOK) -> list[str]:
    """The lines that a script prints in a container."""
    done = node.docker("run", "--rm", "--network", "none", *flags, images.BUSYBOX_REF, "sh", "-c", script, check=True)
    return printed(done)


def is_masked(lines: list[str]) -> bool:
    return "masked 0" in lines


def has_rules(lines: list[str]) -> bool:
    """Both rules hold: mkdir fails as told, of kill one signal alone; or neither does."""
    held = [NO_MKDIR in lines, any(line.endswith(NO_KILL) for line in lines), "one" not in lines]
    assert len(set(held)) == 1, lines
    assert "two" in lines
    return held[0]


def reload(node: CortenEngine, says: str) -> str:
    """SIGHUP, and what the log has from then on once it says something."""
    before = len(node.log.read_text())
    os.kill(node.pid, signal.SIGHUP)
    process.wait_for(lambda: says in node.log.read_text()[before:], f"{says} in the log")
    return node.log.read_text()[before:]


@pytest.mark.parametrize("runtime", ["corten", "crun"])
def test_a_container_of_a_silent_user_has_every_word_of_the_file(node: CortenEngine, runtime: str) -> None:
    lines = run(node, "--runtime", runtime)
    assert lines[:2] == [CORE, FILES]
    assert is_masked(lines)
    assert has_rules(lines)


def test_its_execs_have_the_same_and_it_keeps_them_through_a_restart(node: CortenEngine, file: Path) -> None:
    name = "kept"
    node.docker("run", "-d", "--name", name, "--network", "none", images.BUSYBOX_REF, "sleep", "600", check=True)
    try:
        script = LOOK.replace("/proc/1/", "/proc/self/")
        first = printed(node.docker("exec", name, "sh", "-c", script, check=True))
        assert (first[:2], is_masked(first), has_rules(first)) == ([CORE, FILES], True, True)
        file.write_text("{}")
        reload(node, "Reloaded configuration")
        assert not has_rules(run(node))
        node.docker("restart", "-t", "0", name, check=True)
        again = printed(node.docker("exec", name, "sh", "-c", script, check=True))
        assert again == first
    finally:
        file.write_text(json.dumps(WORDS))
        reload(node, "Reloaded configuration")
        node.docker("rm", "-f", name, check=True)


@pytest.mark.parametrize(
    ("flags", "limits", "masked", "rules"),
    [
        (("--ulimit", "core=5:6"), ["Max core file size 5 6 bytes", FILES], True, True),
        (("--ulimit", "core=7:-1"), ["Max core file size 7 unlimited bytes", FILES], True, True),
        (("--privileged",), [CORE, FILES], False, False),
        (("--security-opt", "systempaths=unconfined"), [CORE, FILES], False, True),
        (("--security-opt", "seccomp=unconfined"), [CORE, FILES], True, False),
        (("--security-opt", "seccomp={profile}"), [CORE, FILES], True, False),
        (("--cap-add", "SYS_ADMIN"), [CORE, FILES], True, True),
    ],
)
def test_what_the_user_says_goes_before_the_file(
    node: CortenEngine, tmp_path: Path, flags: tuple[str, ...], limits: list[str], masked: bool, rules: bool
) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}')
    lines = run(node, *(flag.replace("{profile}", str(profile)) for flag in flags))
    assert (sorted(lines[:2]), is_masked(lines), has_rules(lines)) == (sorted(limits), masked, rules)


def test_a_limit_of_daemon_json_goes_before_the_files_and_behind_the_users(node: CortenEngine) -> None:
    script = "grep locked /proc/1/limits | tr -s ' '"
    assert run(node, script=script) == ["Max locked memory 4096 8192 bytes"]
    assert run(node, "--ulimit", "memlock=1024", script=script) == ["Max locked memory 1024 1024 bytes"]
    rows = node.corten("run", "--explain", images.BUSYBOX_REF, check=True).stdout.splitlines()
    assert [row.split() for row in rows if "MEMLOCK" in row] == [
        ["Corten.rlimits", "daemon.json", "RLIMIT_MEMLOCK", "4096:8192"]
    ]


def test_explain_has_each_word_with_the_files_name(node: CortenEngine, file: Path) -> None:
    table, _, plan = node.corten("run", "--explain", images.BUSYBOX_REF, check=True).stdout.partition("\nPLAN\n")
    rows = {tuple(line.split(None, 1)) for line in table.splitlines() if str(file) in line}
    values = {(field, rest.partition(str(file))[2].strip()) for field, rest in rows}
    assert values - {value for value in values if value[0] == "HostConfig.MaskedPaths"} == {
        ("HostConfig.PidsLimit", str(PIDS)),
        ("Corten.rlimits", "RLIMIT_CORE 0:4096"),
        ("Corten.rlimits", "RLIMIT_NOFILE 64:128"),
        ("Corten.maskedPaths", "/proc/version"),
        ("Corten.maskedPaths", "/proc/kallsyms"),
        ("Corten.seccomp", "mkdir mkdirat: SCMP_ACT_ERRNO"),
        ("Corten.seccomp", "kill: SCMP_ACT_ERRNO"),
    }
    assert any(field == "HostConfig.MaskedPaths" and rest.startswith("built-in, ") for field, rest in rows)
    assert "proc/kallsyms" in plan
    assert "setrlimit nofile 64 128" in plan
    silent = node.corten("run", "--explain", "--privileged", images.BUSYBOX_REF, check=True).stdout
    assert "Corten.rlimits" in silent
    assert "Corten.seccomp" not in silent


def inspected(node: CortenEngine, *flags: str) -> Any:
    made = node.docker("create", *flags, images.BUSYBOX_REF, "true", check=True).stdout.strip()
    try:
        return json.loads(node.docker("inspect", made, check=True).stdout)[0]
    finally:
        node.docker("rm", made, check=True)


def test_inspect_says_what_was_taken_in_the_words_of_the_runtimes_state(node: CortenEngine, file: Path) -> None:
    origin = {"origin": str(file)}
    found = inspected(node)
    assert found["Corten"].pop("Origins")["HostConfig.PidsLimit"] == str(file)
    assert found["Corten"] == {
        "pidsLimit": {"value": PIDS, **origin},
        "rlimits": [
            {"type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 8192, "origin": "daemon.json"},
            *({**row, **origin} for row in WORDS["default-rlimits"][:2]),
        ],
        "maskedPaths": [{"path": path, **origin} for path in WORDS["masked-paths"]],
        "seccomp": [{**row, **origin} for row in WORDS["seccomp"]],
    }
    assert found["HostConfig"]["MaskedPaths"][-2:] == WORDS["masked-paths"]
    assert found["HostConfig"]["PidsLimit"] is None
    given = inspected(node, "--pids-limit", "5", "--privileged")
    assert given["Corten"]["pidsLimit"] == {"value": 5, "origin": "flag"}
    assert set(given["Corten"]) == {"Origins", "pidsLimit", "rlimits"}


def test_the_limit_of_processes_is_the_files(node: CortenEngine) -> None:
    script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true"
    assert run(node, script=script) == [str(PIDS)]
    assert run(node, "--pids-limit", "33", script=script) == ["33"]


def test_a_broken_file_is_told_and_leaves_everything_as_it_was(node: CortenEngine, file: Path) -> None:
    try:
        file.write_text('{"masked": ["/proc/version"]}')
        text = reload(node, "configuration not reloaded")
        assert f"node defaults: {file}: unknown key 'masked'" in text
        assert is_masked(run(node))
        start = subprocess.run(
            [str(paths.COMMANDS / "cortend"), "--validate", "--node-defaults", str(file)],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
        why = f"cortend: unable to configure the daemon with node defaults: {file}: unknown key 'masked'\n"
        assert (start.returncode, start.stderr) == (1, why)
    finally:
        file.write_text(json.dumps(WORDS))
        reload(node, "Reloaded configuration")
