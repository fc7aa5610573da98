"""Rows about OCI runtimes: cold `run`, create+start+delete and exec."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness import FIRST, Budget, Once, Row, Sample, budgets, first, interleave, words

from support import paths, peers

CORTEN = paths.COMMANDS / "corten-runtime"


class Bundle:
    """A busybox bundle with the config.json of a default container, and a runtime root of its own."""

    def __init__(self, folder: Path, args: list[str]) -> None:
        self.folder = folder
        rootfs = folder / "rootfs"
        (rootfs / "bin").mkdir(parents=True)
        for name in ("dev", "proc", "sys", "tmp", "etc"):
            (rootfs / name).mkdir()
        subprocess.run(["cp", "/bin/busybox", rootfs / "bin/busybox"], check=True)
        for name in ("sh", "true", "sleep"):
            (rootfs / "bin" / name).symlink_to("busybox")
        config = json.loads(
            subprocess.run([peers.binary("runc"), "spec", "-b", folder], check=False, capture_output=True).stdout
            or "{}"
        ) or json.loads((folder / "config.json").read_text())
        config["ociVersion"] = "1.0.2"
        config["process"]["terminal"] = False
        config["process"]["args"] = args
        config["process"].pop("rlimits", None)
        config["linux"]["seccomp"] = _default_seccomp()
        self.namespaces = tuple(one["type"] for one in config["linux"]["namespaces"])
        (folder / "config.json").write_text(json.dumps(config))

    def limit_memory(self, limit_bytes: int) -> None:
        """Writes a limit into config.json."""
        path = self.folder / "config.json"
        config = json.loads(path.read_text())
        config["linux"].setdefault("resources", {})["memory"] = {"limit": limit_bytes}
        path.write_text(json.dumps(config))


def _default_seccomp() -> object:
    """Docker's default profile, resolved for a container with the default capabilities."""
    from corten.engine.defaults import CAPABILITIES
    from corten.engine.seccomp import Host, resolved_default

    release = os.uname().release.split(".")
    kernel = (int(release[0]), int(release[1]))
    return json.loads(resolved_default(Host(os.uname().machine, kernel, frozenset(CAPABILITIES))))


class Shell:
    """A process in the mount namespace that crun needs, which runs and times commands: entered once, not timed."""

    SCRIPT = (
        "import subprocess, sys, time, json, resource\n"
        "def cpu():\n"
        "    used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    return used.ru_utime + used.ru_stime\n"
        "for line in sys.stdin:\n"
        "    commands, quiet = json.loads(line)\n"
        "    t, c, worst = time.perf_counter(), cpu(), 0\n"
        "    for argv in commands:\n"
        "        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,\n"
        "                              stderr=subprocess.DEVNULL if quiet else None)\n"
        "        worst = worst or done.returncode\n"
        "    print(time.perf_counter() - t, cpu() - c, worst, flush=True)\n"
    )
    ENTER = ("unshare", "--mount", "--propagation", "private", "sh", "-c")

    def __init__(self, *, without_unified: bool) -> None:
        script = "umount /sys/fs/cgroup/unified; " if without_unified else ""
        self._process = subprocess.Popen(
            [*self.ENTER, f'{script}exec "$0" "$@"', sys.executable, "-ISc", self.SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def time(self, *commands: list[str]) -> float:
        """Seconds that the commands took, one after the other."""
        return self._measured(commands)[0]

    def cpu(self, *commands: list[str]) -> float:
        """Seconds of CPU that the commands, and what they waited for, used in user and kernel mode."""
        return self._measured(commands)[1]

    def succeeds(self, command: list[str]) -> bool:
        """Whether a command ends with 0; what it says is not shown."""
        return not self._ask([command], quiet=True)[2]

    def _measured(self, commands: Sequence[list[str]]) -> tuple[float, float]:
        elapsed, cpu, worst = self._ask(commands, quiet=False)
        if worst:
            raise RuntimeError(f"failed: {commands}")
        return elapsed, cpu

    def _ask(self, commands: Sequence[list[str]], *, quiet: bool) -> tuple[float, float, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([commands, quiet]) + "\n")
        self._process.stdin.flush()
        elapsed, cpu, worst = self._process.stdout.readline().split()
        return float(elapsed), float(cpu), int(worst)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


LARGEST_LIMIT_KIB, LIMIT_STEP_KIB, LIMIT_TRIES = 32 << 10, 32, 3

Runtimes = Mapping[str, tuple[Shell, Path]]  # contender → where it runs, its program
Commands = Callable[[Path, Bundle, Path], list[list[str]]]  # runtime, bundle, state root → argvs, one after the other


def rows(folder: Path, rounds: int) -> list[Row]:
    """The rows of this file."""
    plain, hybrid = Shell(without_unified=False), Shell(without_unified=True)
    runtimes = {
        "runc": (plain, peers.binary("runc")),
        "crun": (hybrid, peers.binary("crun")),
        "corten": (plain, CORTEN),
    }
    bundle = Bundle(folder / "true", ["/bin/true"])
    sleeper = Bundle(folder / "sleep", ["/bin/sleep", "1000"])
    try:
        return [
            *_rows("runtime run, cold", _run, runtimes, bundle, folder, rounds, budgets("0.7", "runc")),
            *_rows("create+start+delete, cold", _cycle, runtimes, sleeper, folder, rounds, budgets("1.0", "runc")),
            *_exec_rows(runtimes, sleeper, folder, rounds),
            _cpu_row("runtime run", _run, runtimes, bundle, folder, rounds),
            _cpu_row("create+start+delete", _cycle, runtimes, sleeper, folder, rounds),
            _memory_row(runtimes, Bundle(folder / "limited", ["/bin/true"]), folder),
        ]
    finally:
        plain.close()
        hybrid.close()


def _run(runtime: Path, bundle: Bundle, root: Path) -> list[list[str]]:
    return [[str(runtime), "--root", str(root), "run", "--bundle", str(bundle.folder), "bench"]]


def _cycle(runtime: Path, bundle: Bundle, root: Path) -> list[list[str]]:
    verb = [str(runtime), "--root", str(root)]
    return [
        [*verb, "create", "--bundle", str(bundle.folder), "bench"],
        [*verb, "start", "bench"],
        [*verb, "delete", "--force", "bench"],
    ]


def _once(shell: Shell, commands: list[list[str]]) -> Once:
    return lambda: shell.time(*commands)


def _rows(
    name: str,
    commands_of: Commands,
    runtimes: Runtimes,
    bundle: Bundle,
    folder: Path,
    rounds: int,
    budget: tuple[Budget, ...],
) -> list[Row]:
    """With cold caches, and warm."""
    argvs = {label: commands_of(path, bundle, folder / f"root-{label}") for label, (_, path) in runtimes.items()}
    contenders = {label: _once(shell, argvs[label]) for label, (shell, _) in runtimes.items()}
    texts = {label: "; ".join(words(argv) for argv in commands) for label, commands in argvs.items()}
    return [
        Row(name.removesuffix(", cold") + FIRST, "ms", first(contenders), (), texts),
        Row(name, "ms", interleave(contenders, rounds, warm=3), budget, texts),
    ]


def _cpu_row(name: str, commands_of: Commands, runtimes: Runtimes, bundle: Bundle, folder: Path, rounds: int) -> Row:
    """CPU of the commands and of what they wait for; what a `create` leaves behind is nobody's child."""
    argvs = {label: commands_of(path, bundle, folder / f"root-{label}") for label, (_, path) in runtimes.items()}
    contenders = {label: _once_cpu(shell, argvs[label]) for label, (shell, _) in runtimes.items()}
    texts = {label: "; ".join(words(argv) for argv in commands) for label, commands in argvs.items()}
    return Row(f"{name}, CPU", "ms", interleave(contenders, rounds, warm=3), (), texts)


def _once_cpu(shell: Shell, commands: list[list[str]]) -> Once:
    return lambda: shell.cpu(*commands)


def _memory_row(runtimes: Runtimes, bundle: Bundle, folder: Path) -> Row:
    """The smallest memory limit of a container with which a runtime starts it, by halving, three times out of three."""
    samples, texts = {}, {}
    for label, (shell, path) in runtimes.items():
        verb = [str(path), "--root", str(folder / f"root-{label}")]
        argv = [*verb, "run", "--bundle", str(bundle.folder), f"limited-{label}"]
        low, high = 0, LARGEST_LIMIT_KIB
        while high - low > LIMIT_STEP_KIB:
            middle = (low + high) // 2
            bundle.limit_memory(middle << 10)
            works = all(shell.succeeds(argv) for _ in range(LIMIT_TRIES))
            if not works:
                shell.succeeds([*verb, "delete", "--force", f"limited-{label}"])
            low, high = (low, middle) if works else (middle, high)
        samples[label], texts[label] = Sample((float(high),)), words(argv)
    return Row("smallest memory limit with which a container starts", "KiB", samples, (), texts)


def _exec_rows(runtimes: Runtimes, bundle: Bundle, folder: Path, rounds: int) -> list[Row]:
    """exec into a running container."""
    contenders: dict[str, Once] = {}
    texts = {}
    for label, (shell, path) in runtimes.items():
        verb = [str(path), "--root", str(folder / f"root-{label}")]
        shell.time([*verb, "run", "--detach", "--bundle", str(bundle.folder), f"bench-exec-{label}"])
        argv = [*verb, "exec", f"bench-exec-{label}", "/bin/true"]
        contenders[label], texts[label] = _once(shell, [argv]), words(argv)
    cold, warm = first(contenders), interleave(contenders, rounds, warm=3)
    for label, (shell, path) in runtimes.items():
        shell.time([str(path), "--root", str(folder / f"root-{label}"), "delete", "--force", f"bench-exec-{label}"])
    return [Row("runtime exec" + FIRST, "ms", cold, (), texts), Row("runtime exec, cold", "ms", warm, (), texts)]
