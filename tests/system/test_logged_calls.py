"""Calls that a container's own profile has logged: told with the kernel's record as evidence, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import images, peers
from support.engine import CortenEngine
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
FLAG = ["SECCOMP_FILTER_FLAG_LOG"]
# a shell's own call, again and again: the kernel leaves records out when others write many
CALLS = "umask 022; umask 022; while :; do sleep 1; umask 022; done"
CHILD = f"sh -c '{CALLS}' & wait"


@pytest.fixture(scope="module", autouse=True)
def records() -> None:
    """What the kernel must do for it."""
    logged = Path("/proc/sys/kernel/seccomp/actions_logged").read_text().split()
    if not {"errno", "log"} <= set(logged) or not Path("/proc/self/loginuid").exists():
        pytest.skip("this kernel has no auditing, or is set not to log what filters refuse")
    if os.stat("/proc/self/ns/pid").st_ino != 0xEFFFFFFC:
        pytest.skip("the log has numbers of another pid namespace")


@pytest.fixture(scope="module")
def engine() -> Iterator[CortenEngine]:
    runtimes = {"crun": {"path": str(peers.crun_for_hybrid())}}
    with CortenEngine(config={"runtimes": runtimes}) as made:
        made.docker("load", "-i", str(images.busybox()), check=True)
        yield made


@contextmanager
def container(engine: CortenEngine, folder: Path, profile: Any, script: str, *flags: str) -> Iterator[str]:
    """Its name."""
    rules = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["umask"], **profile["rule"]}]}
    (folder / "profile.json").write_text(json.dumps({**rules, "flags": profile.get("flags", [])}))
    given = ("--security-opt", f"seccomp={folder}/profile.json", "--network", "none", *flags)
    engine.docker("run", "-d", "--name", "logged", *given, IMAGE, "sh", "-c", script, check=True)
    try:
        yield "logged"
    finally:
        engine.docker("rm", "-f", "logged")


def of_ours(engine: CortenEngine, name: str) -> Any:
    return json.loads(engine.docker("inspect", name, check=True).stdout)[0]["Corten"]


ERRNO = {"rule": {"action": "SCMP_ACT_ERRNO", "errnoRet": 1}, "flags": FLAG}
LOG = {"rule": {"action": "SCMP_ACT_LOG"}}
SILENT = {"rule": {"action": "SCMP_ACT_ERRNO", "errnoRet": 1}}


@pytest.mark.parametrize(
    ("profile", "script", "flags", "action"),
    [
        pytest.param(ERRNO, CALLS, (), "refused with an error", id="refused"),
        pytest.param(LOG, CALLS, (), "let through", id="let-through"),
        pytest.param(ERRNO, CHILD, (), "refused with an error", id="of-a-child", marks=pytest.mark.slow),
        pytest.param(ERRNO, CALLS, ("--runtime", "crun"), "refused with an error", id="crun", marks=pytest.mark.slow),
    ],
)
def test_a_logged_call_is_told_with_its_record(
    engine: CortenEngine, tmp_path: Path, profile: Any, script: str, flags: tuple[str, ...], action: str
) -> None:
    with container(engine, tmp_path, profile, script, *flags) as name:
        wait_for(lambda: "Calls" in of_ours(engine, name), "record of the kernel", 60)
        (row,) = of_ours(engine, name)["Calls"]
        assert (row["Call"], row["Action"], row["Command"]) == ("umask", action, "sh")
        assert f" {action}: " in engine.corten("why", name, check=True).stdout
        engine.docker("kill", name, check=True)
        found = of_ours(engine, name)
        assert found["Verdict"]["Calls"][0]["Count"] >= row["Count"]
        (claim,) = [one for one in found["Verdict"]["Claims"] if one["Claim"].startswith("system call umask (")]
        assert claim["Evidence"].startswith("kernel log: audit type 1326, code=0x")
        assert "Calls" not in found  # which are those of a run that goes on
        assert claim["Claim"] in engine.corten("why", name, check=True).stdout


def test_without_a_word_of_logging_nothing_is_told(engine: CortenEngine, tmp_path: Path) -> None:
    """The same refusals, of which the kernel keeps no record; a container that logs runs beside it."""
    script = "umask 022 2>/dev/null; echo refused $?; exec sleep 1000"
    (tmp_path / "loud").mkdir()
    with container(engine, tmp_path / "loud", ERRNO, CALLS) as loud:
        (tmp_path / "silent.json").write_text(
            json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["umask"], **SILENT["rule"]}]})
        )
        given = ("--security-opt", f"seccomp={tmp_path}/silent.json", "--network", "none")
        engine.docker("run", "-d", "--name", "silent", *given, IMAGE, "sh", "-c", script, check=True)
        try:
            wait_for(lambda: "Calls" in of_ours(engine, loud), "record of the other one", 60)
            wait_for(lambda: "refused" in engine.docker("logs", "silent").stdout, "refusal", 60)
            assert "Calls" not in of_ours(engine, "silent")
            assert "umask" not in engine.corten("why", "silent", check=True).stdout.partition("LAST LINES")[0]
            engine.docker("kill", "silent", check=True)
            assert "Calls" not in of_ours(engine, "silent")["Verdict"]
        finally:
            engine.docker("rm", "-f", "silent")


@pytest.mark.slow
def test_what_was_logged_while_cortend_was_dead_is_told(engine: CortenEngine, tmp_path: Path) -> None:
    script = f"while [ ! -e /x/go ]; do sleep 0.1; done; {CALLS}"
    with container(engine, tmp_path, ERRNO, script, "-v", f"{tmp_path}:/x") as name:
        engine.kill9()
        (tmp_path / "go").touch()
        engine.start()
        wait_for(lambda: "Calls" in of_ours(engine, name), "record of the kernel", 60)
        before = of_ours(engine, name)["Calls"][0]["Count"]
        engine.kill9()
        engine.start()
        wait_for(lambda: of_ours(engine, name).get("Calls", [{"Count": 0}])[0]["Count"] >= before, "count", 60)
