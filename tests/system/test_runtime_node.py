"""The node's file: what it says is in the container and in its execs, with its origin in `state` and `plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support import runtimes
from support.runtimes import Bundle, Runtime

LOOK = "ulimit -c; ulimit -n; head -c 9 /proc/version; mkdir /tmp/d && echo made"
# RLIMIT_NOFILE stands in the bundle of the tests; mkdir(2) has errno 28 of its own there
WORDS: dict[str, Any] = {
    "default-rlimits": [
        {"type": "RLIMIT_CORE", "soft": 512, "hard": 1024},
        {"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99},
    ],
    "masked-paths": ["/proc/version"],
    "seccomp": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
}


@pytest.fixture
def node(folder: Path) -> Path:
    """The node's file."""
    path = folder / "node.json"
    path.write_text(json.dumps(WORDS))
    return path


def looker(folder: Path, *args: str) -> Bundle:
    """A bundle that may write to its /tmp."""
    bundle = runtimes.bundle(*args, folder=folder / "bundle")
    bundle.config["root"]["readonly"] = False
    return bundle.save()


def test_limits_masks_and_filters_of_the_node_are_in_the_container(corten: Runtime, folder: Path, node: Path) -> None:
    bundle = looker(folder, "sh", "-c", LOOK)
    done = corten("--config", str(node), "run", "-b", str(bundle.path), "c")
    assert done.stdout.split() == ["1", "1024"]  # 512-byte blocks; the bundle's own limit of files
    assert "No space left on device" in done.stderr
    without = corten("run", "-b", str(bundle.path), "c")
    assert "Linux ver" in without.stdout
    assert "made" in without.stdout


def test_a_bundle_that_names_a_call_or_a_limit_keeps_its_own(corten: Runtime, folder: Path, node: Path) -> None:
    bundle = looker(folder, "sh", "-c", LOOK)
    allowed = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ALLOW"}
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [allowed]}
    bundle.config["process"]["rlimits"].append({"type": "RLIMIT_CORE", "soft": 0, "hard": 0})
    bundle.save()
    done = corten("--config", str(node), "run", "-b", str(bundle.path), "c")
    assert done.stdout.split() == ["0", "1024", "made"]


@pytest.mark.parametrize("form", ["words", "process file"])
def test_an_exec_has_what_its_container_has_whatever_the_file_says_now(
    corten: Runtime, folder: Path, node: Path, form: str
) -> None:
    bundle = looker(folder, "sleep", "1000")
    corten.detached("--config", str(node), "run", "-d", "-b", str(bundle.path), "c")
    node.unlink()
    if form == "words":
        done = corten("exec", "c", "sh", "-c", LOOK)
    else:
        process = {**bundle.config["process"], "args": ["sh", "-c", LOOK]}
        (folder / "process.json").write_text(json.dumps(process))
        done = corten("exec", "-p", str(folder / "process.json"), "c")
    assert done.stdout.split() == ["1", "1024"]
    assert "No space left on device" in done.stderr


def test_state_and_plan_tell_who_said_so(corten: Runtime, folder: Path, node: Path) -> None:
    bundle = looker(folder, "sleep", "1000")
    corten.detached("--config", str(node), "create", "-b", str(bundle.path), "c")
    own: dict[str, Any] = corten.state("c")["corten"]
    assert own["pidsLimit"] == {"value": 500, "origin": "built-in default"}
    assert own["rlimits"] == [{"type": "RLIMIT_CORE", "soft": 512, "hard": 1024, "origin": str(node)}]
    assert own["maskedPaths"] == [{"path": "/proc/version", "origin": str(node)}]
    assert own["seccomp"] == [{**WORDS["seccomp"][0], "origin": str(node)}]
    lines = corten("--config", str(node), "plan", "-b", str(bundle.path), check=True).stdout.splitlines()
    assert lines[:4] == [
        "pids limit 500 (built-in default)",
        f"rlimit RLIMIT_CORE 512:1024 ({node})",
        f"masked path /proc/version ({node})",
        f"seccomp mkdir mkdirat: SCMP_ACT_ERRNO ({node})",
    ]


def test_a_wrong_word_is_told_before_anything_is_made(corten: Runtime, folder: Path, node: Path) -> None:
    bundle = looker(folder, "true")
    node.write_text('{"masked-paths": ["proc"]}')
    done = corten("--config", str(node), "run", "-b", str(bundle.path), "c")
    assert done.returncode == 1
    assert f"{node}.masked-paths: 'proc' is not an absolute path" in done.stderr
    assert not (folder / "root").exists()
