"""The launcher's decoder and its ops under libFuzzer, AddressSanitizer and UBSan: any plan, any answers of the kernel.

The launcher is compiled as it is shipped; only `sys()` and its entry point lead elsewhere (launcher/world.h).  The
seeds are what the golden plans consist of, and `launcher/corpus.txt`: inputs that earlier runs found new ways with.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.launch.encode import encode
from corten.launch.execops import Seccomp
from corten.launch.ops import Op, Plan
from support import clang, killpoints, paths, summary
from support.goldenplans import plans
from support.ops import op_classes

HERE = Path(__file__).parent / "launcher"
LAUNCHER = paths.REPOSITORY / "launcher"
CORPUS = HERE / "corpus.txt"
MAX_BYTES = 4096
WINDOW = 6
# the number of answers of the kernel, and so many that say yes
ANSWERS = b"\x10\x00" + bytes(16)
LONGEST_S = 1800


def sources(launcher: Path) -> list[Path]:
    """What the harness is linked with: all but main.c, which it contains, and the programs beside the launcher."""
    rest = [launcher / f"{name}.c" for name in ("lib", "path", "plan")]
    return [HERE / "harness.c", *sorted(launcher.glob("ops_*.c")), *rest]


def compiled(launcher: Path, output: Path) -> Path:
    clang.build(output, sources(launcher), "-Wno-unused", "-I", str(launcher), "-include", str(HERE / "world.h"))
    return output


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = paths.scratch("fuzz")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def fuzzer(folder: Path) -> Path:
    return compiled(LAUNCHER, folder / "fuzz")


def slots_of(ops: tuple[Op, ...]) -> dict[str, int]:
    """Every slot that is named, with a descriptor."""
    named: dict[str, int] = {}
    for op in ops:
        for letter, value in zip(op.form, op.fields(), strict=True):
            for name in (value,) if letter == "d" else value if letter == "D" and isinstance(value, tuple) else ():
                if name:
                    named.setdefault(str(name), 15 + len(named))
    return named


def bare(kind: type[Op]) -> Op:
    """An op of this kind with something in each of its fields."""
    values: dict[str, object] = {
        "n": 1,
        "d": "slot",
        "s": "a/b",
        "b": bytes(8),
        "l": ("a=b", "c"),
        "g": (1,),
        "D": ("slot",),
    }
    fields = tuple(values[letter] for letter in kind.form)
    attributes = {"__slots__": (), "code": kind.code, "form": kind.form, "fields": lambda self: fields}
    made: Op = type("Bare", (Op,), attributes)()
    return made


def short(op: Op) -> Op:
    """Without most of a filter: the kernel reads it, the launcher does not."""
    return Seccomp(op.filter[:64], op.flags, op.last, op.listener) if isinstance(op, Seccomp) else op


def seeds() -> list[bytes]:
    """Each op alone; windows of the golden plans, one for each order of ops that there is; the corpus."""
    windows: list[tuple[Op, ...]] = [(bare(kind),) for kind in op_classes()]
    for plan in plans():
        ops = [short(op) for op in plan.ops]
        windows += [tuple(ops[at : at + WINDOW]) for at in range(0, len(ops), WINDOW - 2)]
    found: dict[tuple[int, ...], bytes] = {}
    for window in windows:
        fds = slots_of(window)
        data = ANSWERS + encode(Plan(window, tuple(fds)), fds, 8)
        if len(data) <= MAX_BYTES:
            found.setdefault(tuple(op.code for op in window), data)
    kept = [base64.b64decode(line) for line in CORPUS.read_text().split()] if CORPUS.exists() else []
    return [*found.values(), *kept]


def run(fuzzer: Path, work: Path, runs: int) -> subprocess.CompletedProcess[str]:
    """One run over a fresh corpus."""
    corpus = work / "corpus"
    corpus.mkdir(parents=True)
    for number, data in enumerate(seeds()):
        (corpus / f"{number}").write_bytes(data)
    words = (f"-runs={runs}", f"-max_len={MAX_BYTES}", f"-seed={killpoints.seed() + 1}", "-timeout=10")
    argv: list[str | Path] = [fuzzer, *words, f"-artifact_prefix={work}/", "-print_final_stats=1", corpus]
    pipe = subprocess.PIPE
    return subprocess.run(argv, check=False, stdout=pipe, stderr=subprocess.STDOUT, text=True, timeout=LONGEST_S)


@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("runs", [300_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_no_plan_makes_the_launcher_read_or_write_what_is_not_its_own(fuzzer: Path, folder: Path, runs: int) -> None:
    done = run(fuzzer, folder / str(runs), runs)
    tail = done.stdout[-4000:]
    assert done.returncode == 0, tail
    count = int(re.findall(r"stat::number_of_executed_units: (\d+)", done.stdout)[0])
    ways = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stdout)[-1]
    assert count >= runs, tail
    found = f"{ways[0]} edges, {ways[1]} features, {ways[2]} kept"
    summary.add("fuzz", f"launcher: {count} plans, seed {killpoints.seed() + 1}: {found}")


@pytest.mark.parametrize(
    ("file", "sound", "weak"),
    [
        ("plan.c", "size > (u64) (c->end - c->at)", "size > 1 << 20"),
        ("main.c", "ops_offset(header) > header->size", "sizeof(*header) > header->size"),
        pytest.param(
            *("plan.c", "slot < l->slot_count && l->slots[slot] >= 0", "l->slots[slot] >= 0"), marks=pytest.mark.slow
        ),
        pytest.param(*("ops_user.c", "count > (u64) (c->end - c->at) / 8", "0"), marks=pytest.mark.slow),
    ],
)
def test_a_launcher_without_one_of_its_checks_is_caught(folder: Path, file: str, sound: str, weak: str) -> None:
    """The twins: the same plans, and one check less."""
    copy = folder / f"weak-{abs(hash((file, sound)))}"
    shutil.copytree(LAUNCHER, copy)
    text = (copy / file).read_text()
    assert sound in text
    (copy / file).write_text(text.replace(sound, weak))
    done = run(compiled(copy, copy / "fuzz"), copy / "work", 300_000)
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer" in done.stdout or "runtime error" in done.stdout
