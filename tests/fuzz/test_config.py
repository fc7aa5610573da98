"""Any config.json: it becomes a plan that can be printed and encoded, or one sentence; never another failure."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from corten.errors import CortenError
from corten.launch import seccomp
from corten.launch.compile import compile_exec, compile_init
from corten.launch.context import COMMAND, SHIM, ExecContext, InitContext
from corten.launch.encode import encode
from corten.launch.facts import HostFacts, facts_from_obj
from corten.launch.ops import Plan
from corten.launch.seccomp_compile import compile_profile
from corten.runtime import fast, prepare
from corten.runtime.cgroups import CgroupPaths
from corten.spec.process import Process, parse_process
from corten.spec.reader import Reader
from corten.spec.runtime import Config, parse_config
from support import killpoints, paths, summary
from support.oddconfigs import Mutator

ROUNDS = pytest.mark.parametrize(
    "rounds", [2000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
PLANS = paths.REPOSITORY / "tests" / "golden" / "plans"
ALL_CALLS = (1 << 16) - 1


def documents(name: str) -> list[dict[str, Any]]:
    """The documents of the golden plans; filters are short, so that most changes lie elsewhere."""
    return [json.loads(path.read_text()) for path in sorted(PLANS.glob(f"*/{name}.json"))]


def hosts() -> list[HostFacts]:
    """Six kinds of machine."""
    hybrid, new, user = (facts_from_obj(json.loads((PLANS / case / "facts.json").read_text())) for case in CASES)
    old = HostFacts((6, 1), "v2", {}, "/sys/fs/cgroup", apparmor=True)
    pidns = HostFacts((6, 18), "v2", {}, "/sys/fs/cgroup", procfs_pidns=True, selinux=True, narrow_affinity=True)
    return [hybrid, new, user, old, pidns, HostFacts((5, 10), "v1", {"pids": "/sys/fs/cgroup/pids"}, "")]


CASES = ("default-hybrid", "default-v2", "default-v1")
PATHS = (
    CgroupPaths("v2", {}, "/sys/fs/cgroup/c", "/sys/fs/cgroup"),
    CgroupPaths("hybrid", {"pids": "/sys/fs/cgroup/pids/c"}, "/sys/fs/cgroup/unified/c", "/sys/fs/cgroup/unified"),
)


def check_plan(plan: Plan) -> None:
    assert plan.describe().count("\n") >= len(plan.ops)
    assert encode(plan, dict.fromkeys(plan.inputs, 9), 8)


class Target:
    """What a document goes through, and how far the documents came."""

    def __init__(self) -> None:
        self.hosts = hosts()
        self.counts = {"parsed": 0, "compiled": 0, "refused": 0, "filters": 0}

    def take(self, data: bytes, turn: int) -> None:
        """One document, on one of the machines; raises what is no `CortenError`."""
        try:
            config = parse_config(fast.loads_from("config.json", data))
        except CortenError as error:
            self._refused(error)
            return
        self.counts["parsed"] += 1
        for paths_ in PATHS:
            self._attempt(lambda p=paths_: prepare.cgroup_writes(p, config.linux.resources, 500))
            self._attempt(lambda p=paths_: prepare.device_program(p, config.linux.resources))
        flags = self._filter(config, compiles=turn % 2 == 0)
        facts = self.hosts[turn % len(self.hosts)]
        before = self.counts["compiled"]
        self._attempt(lambda: self._init(config, facts, flags, turn))
        process = config.process
        if process is not None and self.counts["compiled"] > before:  # an exec has a container
            self._attempt(lambda: self._exec(config, process, facts, flags))

    def take_process(self, data: bytes, config: Config, turn: int) -> None:
        """One process file of an exec."""
        try:
            process = parse_process(fast.loads_from("process.json", data))
        except CortenError as error:
            self._refused(error)
            return
        self.counts["parsed"] += 1
        self._attempt(lambda: self._exec(config, process, self.hosts[turn % len(self.hosts)], 0))

    def _init(self, config: Config, facts: HostFacts, flags: int, turn: int) -> None:
        context = InitContext(
            "c1",
            "/bundle",
            cgroup_paths={"pids": "/sys/fs/cgroup/pids/c"} if facts.cgroup_v1 else {},
            cgroup_v2_dir="/sys/fs/cgroup/c" if facts.cgroup_v2_mount else "",
            rootfs="/bundle/rootfs",
            wait_for_hooks=bool(config.hooks.prestart),
            parent=SHIM if turn % 2 else COMMAND,
            console=config.process is not None and config.process.terminal,
            seccomp=bytes(8),
            seccomp_flags=flags,
            seccomp_calls=ALL_CALLS,
        )
        check_plan(compile_init(config, facts, context))
        self.counts["compiled"] += 1

    def _exec(self, config: Config, process: Process, facts: HostFacts, flags: int) -> None:
        context = ExecContext("c1", cgroup_paths={}, seccomp=bytes(8), seccomp_flags=flags, seccomp_calls=ALL_CALLS)
        check_plan(compile_exec(config, process, facts, context))
        self.counts["compiled"] += 1

    def _filter(self, config: Config, *, compiles: bool) -> int:
        """The flags of the profile, 0 where it is refused."""
        profile = config.linux.seccomp
        flags = 0
        if profile is not None:
            try:
                flags = seccomp.filter_flags(profile)
                seccomp.cache_key(profile)
                if compiles:
                    assert len(compile_profile(profile)) % 8 == 0
                    self.counts["filters"] += 1
            except CortenError as error:
                self._refused(error)
        return flags

    def _attempt(self, action: Any) -> None:
        try:
            action()
        except CortenError as error:
            self._refused(error)

    def _refused(self, error: CortenError) -> None:
        self.counts["refused"] += 1
        text = error.text.encode("utf-8", "backslashreplace")
        assert text
        assert len(text) < 20_000


@ROUNDS
def test_every_document_becomes_a_plan_or_a_sentence(rounds: int, tmp_path: Path) -> None:
    target, mutator = Target(), Mutator(killpoints.seed(), documents("config"))
    for turn in range(rounds):
        data = mutator.data() if turn % 4 == 0 else json.dumps(mutator.document()).encode("utf-8", "surrogatepass")
        try:
            target.take(data, turn)
        except BaseException:
            keep(tmp_path, data)
            raise
    report("config.json", rounds, target)
    # most changes are no longer refused by the parser: the compiler is what is tried
    assert target.counts["parsed"] > rounds / 4
    assert target.counts["compiled"] > rounds / 10


@ROUNDS
def test_every_process_file_becomes_a_plan_or_a_sentence(rounds: int, tmp_path: Path) -> None:
    target, mutator = Target(), Mutator(killpoints.seed() + 1, documents("process"))
    config = parse_config(documents("config")[0])
    for turn in range(rounds):
        data = mutator.data()
        try:
            target.take_process(data, config, turn)
        except BaseException:
            keep(tmp_path, data)
            raise
    report("process file", rounds, target)
    assert target.counts["compiled"] > rounds / 10


@pytest.mark.parametrize(
    ("method", "believing"),
    [
        ("string", lambda self, name, required=False: self.obj.get(name) or ""),
        ("strings", lambda self, name: self.obj.get(name) or ()),
        ("_number", lambda self, value, name, low, high: value),
    ],
    ids=["texts", "arrays of texts", "numbers"],
)
def test_a_parser_that_lets_wrong_values_pass_is_noticed(
    monkeypatch: pytest.MonkeyPatch, method: str, believing: Any
) -> None:
    """The twin: with a reader that believes every value, the same changes end in other failures."""
    target, mutator = Target(), Mutator(killpoints.seed(), documents("config"))
    monkeypatch.setattr(Reader, method, believing)
    with pytest.raises((TypeError, AttributeError, ValueError, OverflowError, struct.error)):
        take_documents(target, mutator, 10_000)  # a few in five hundred


def take_documents(target: Target, mutator: Mutator, rounds: int) -> None:
    for turn in range(rounds):
        target.take(json.dumps(mutator.document()).encode("utf-8", "surrogatepass"), turn)


def keep(folder: Path, data: bytes) -> None:
    """The document that failed, where it can be looked at."""
    (folder / "failed.json").write_bytes(data)
    print(f"seed {killpoints.seed()}: {folder / 'failed.json'}")


def report(what: str, rounds: int, target: Target) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in target.counts.items())
    summary.add("fuzz", f"{what}: {rounds} documents, seed {killpoints.seed()}: {counts}")
