"""A container before its start, beside runc: the signals that end it, and what it is while its hooks run."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import paths, peers, runtimes
from support.process import wait_for
from support.runtimes import Runtime

STAYING_S = 0.3  # what a signal does, it does at once
HOOKED = pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])


@pytest.fixture(params=["corten", "runc"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    """corten-runtime, then runc."""
    program = paths.COMMANDS / "corten-runtime" if request.param == "corten" else peers.binary("runc")
    made = Runtime(program, tmp_path / "state")
    yield made
    made.close()
    runtimes.remove_cgroups()


class TestSignals:
    """runc's init, a Go program, obeys some of them; ours is a process that the kernel protects, as pid 1."""

    ENDING = ("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "TERM", "STKFLT", "SYS", "KILL")
    OTHERS = (
        *("0", "USR1", "USR2", "PIPE", "ALRM", "CHLD", "CONT", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM"),
        *("PROF", "WINCH", "IO", "PWR", "35", "64"),
    )
    NAMESPACES = pytest.mark.parametrize("private", [True, False], ids=["own pids", "pids of the host"])

    def bundle(self, folder: Path, *, private: bool) -> str:
        bundle = runtimes.sleeper(folder)
        if not private:
            bundle.config["linux"]["namespaces"].remove({"type": "pid"})
        return str(bundle.save().path)

    @NAMESPACES
    def test_that_end_a_process_end_it(self, runtime: Runtime, tmp_path: Path, private: bool) -> None:
        bundle = self.bundle(tmp_path, private=private)
        for name in self.ENDING if private else ("TERM", "INT"):
            runtime.detached("create", "-b", bundle, "c")
            runtime("kill", "c", name, check=True)
            runtime.wait_for("c", "stopped")
            runtime("delete", "c", check=True)

    @NAMESPACES
    def test_of_which_the_init_knows_nothing_do_nothing(self, runtime: Runtime, tmp_path: Path, private: bool) -> None:
        runtime.detached("create", "-b", self.bundle(tmp_path, private=private), "c")
        for name in self.OTHERS:
            runtime("kill", "c", name, check=True)
        time.sleep(STAYING_S)
        assert runtime.state("c")["status"] == "created"
        assert "invalid argument" in runtime("kill", "c", "65").stderr
        runtime("start", "c", check=True)
        assert runtime.state("c")["status"] == "running"

    def test_for_everybody_end_it_too(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.detached("create", "-b", self.bundle(tmp_path, private=True), "c")
        runtime("kill", "--all", "c", "TERM", check=True)
        runtime.wait_for("c", "stopped")

    def test_reach_the_process_once_it_runs(self, runtime: Runtime, tmp_path: Path) -> None:
        runtime.detached("run", "-d", "-b", self.bundle(tmp_path, private=True), "c")
        runtime("kill", "c", "TERM", check=True)  # which pid 1 passes over
        time.sleep(STAYING_S)
        assert runtime.state("c")["status"] == "running"


class TestHooks:
    """While they run there is no container for anybody else: runc knows none, ours is `creating`."""

    def hooked(self, folder: Path, kind: str, script: str) -> str:
        """The path of a bundle with one hook."""
        bundle = runtimes.sleeper(folder)
        bundle.config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
        return str(bundle.save().path)

    @HOOKED
    @pytest.mark.parametrize("verb", ["create", "run"])
    def test_every_verb_is_refused(self, runtime: Runtime, tmp_path: Path, kind: str, verb: str) -> None:
        script = f"touch {tmp_path}/at; while [ ! -e {tmp_path}/on ]; do sleep 0.02; done; exit 1"
        bundle = self.hooked(tmp_path, kind, script)
        null = subprocess.DEVNULL
        with subprocess.Popen(runtime.argv(verb, "-b", bundle, "c"), stdin=null, stdout=null, stderr=null) as making:
            try:
                wait_for((tmp_path / "at").exists, "hook")
                for words in (("start", "c"), ("kill", "c"), ("exec", "c", "true"), ("pause", "c"), ("delete", "c")):
                    done = runtime(*words)
                    assert done.returncode in (1, 255), words
                    assert done.stderr, words
                known = runtime("state", "c").stdout
                if runtime.program == str(peers.binary("runc")):
                    assert known == ""
                else:
                    assert json.loads(known)["status"] == "creating"
            finally:
                (tmp_path / "on").touch()
            assert making.wait(30) == 1
        assert "does not exist" in runtime("state", "c").stderr

    @HOOKED
    def test_it_is_created_when_they_have_run(self, runtime: Runtime, tmp_path: Path, kind: str) -> None:
        runtime.detached("create", "-b", self.hooked(tmp_path, kind, "true"), "c")
        assert runtime.state("c")["status"] == "created"
        runtime("start", "c", check=True)
        assert runtime.state("c")["status"] == "running"
