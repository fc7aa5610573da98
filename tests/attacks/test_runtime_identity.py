"""Who a process is: inheritable capabilities (field.md, D5), numbers and names of users (D6), sysctls as data (D11)."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.launch.ops import Op, Plan, WriteFile
from corten.launch.userops import SetCaps
from support import paths, runtimes, weakened_corten
from support.launching import CAPS, DEFAULT_CAPS, Machine
from support.runtimes import Runtime
from support.weakened import Edit

# numbers of users taken as Python takes them, and as the kernel does: 32 bits of them
ANY_NUMBER: tuple[Edit, ...] = (
    (
        "runtime/exec_process.py",
        "if not (text.isascii() and text.isdigit()) or len(text) > DIGITS or int(text) >= U32:",
        "if not text.strip().isdigit():",
    ),
)
ANY_NUMBER_OF_A_FILE: tuple[Edit, ...] = (
    ("spec/process.py", 'reader.integer("uid", high=U32 - 1)', 'reader.integer("uid")'),
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


def inheriting(plan: Plan) -> Plan:
    """What runc, crun, containerd, moby and podman did: what a process may have, it inherits, too."""
    ops: list[Op] = [
        SetCaps(op.effective, op.permitted, DEFAULT_CAPS) if isinstance(op, SetCaps) else op for op in plan.ops
    ]
    return Plan(tuple(ops), plan.inputs, plan.preserve_fds)


class TestInheritable:
    """2022-24769, 27649 to 27652, 29162: a file of the image with inheritable capabilities gives them to a user."""

    PROGRAM = ("/tools/cat", "/proc/self/status")

    @pytest.fixture
    def tool(self, machine: Machine) -> None:
        """A cat with `cap_chown,…+ei` as setcap(8) writes it (capabilities(7), VFS_CAP_REVISION_2)."""
        (machine.rootfs / "tools").mkdir(exist_ok=True)
        program = machine.rootfs / "tools/cat"
        program.write_bytes((machine.rootfs / "bin/busybox").read_bytes())
        program.chmod(0o755)
        os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 0, DEFAULT_CAPS, 0, 0))

    def effective(self, lines: list[str]) -> int:
        (line,) = [line for line in lines if line.startswith("CapEff:")]
        return int(line.split()[1], 16)

    def document(self, machine: Machine, *args: str) -> dict[str, Any]:
        names = ("bounding", "effective", "permitted")
        user = {"uid": 1000, "gid": 1000}
        return machine.config(*args, user=user, capabilities=dict.fromkeys(names, CAPS), noNewPrivileges=False)

    @pytest.mark.usefixtures("tool")
    def test_are_none_for_an_init_and_for_an_exec(self, machine: Machine) -> None:
        document = self.document(machine, *self.PROGRAM)
        assert self.effective(machine.run(document).lines) == 0
        with machine.container() as inside:
            done = machine.exec(inside, document, document["process"]).finish()
        assert self.effective(done.lines) == 0

    @pytest.mark.usefixtures("tool")
    def test_twin_a_plan_that_leaves_them_gives_them_to_the_user(self, machine: Machine) -> None:
        document = self.document(machine, *self.PROGRAM)
        done = machine.spawn(machine.plan(document), transform=inheriting).finish()
        assert self.effective(done.lines) == DEFAULT_CAPS
        with machine.container() as inside:
            done = machine.exec(inside, document, document["process"], transform=inheriting).finish()
        assert self.effective(done.lines) == DEFAULT_CAPS


class TestNumbersOfUsers:
    """runc 2016-3697, crun 2026-30892, containerd 2024-40635: `exec -u` and the user of a process file."""

    ODD = (
        "root", "x", "-1", "+0", " 0", "0x0", "0_0", "1e3", "0.0", "٠", "²", "4294967295", "4294967296",
        "18446744073709551616", "1000:root", "1000:-1", "1000:4294967296", ":0", "1000:", "1000:0:0", "1000,0",
    )  # fmt: skip

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        """A bundle whose /etc/passwd has numbers for names, each with root's id."""
        with runtimes.folder_of_containers("identity") as made:
            runtimes.sleeper(made)
            passwd = made / "bundle/rootfs/etc/passwd"
            passwd.write_text("".join(f"{name}:x:0:0::/:/bin/sh\n" for name in ("root", "x", "1000", "4294967296")))
            yield made

    @pytest.fixture
    def runtime(self, folder: Path) -> Iterator[Runtime]:
        yield from self.living(folder, paths.COMMANDS)

    def living(self, folder: Path, commands: Path) -> Iterator[Runtime]:
        """A runtime with a container `C`."""
        runtime = Runtime(commands / "corten-runtime", folder / "root")
        runtime.detached("run", "--detach", "-b", str(folder / "bundle"), "C")
        yield runtime
        runtime.close()

    @pytest.mark.parametrize("user", ODD)
    def test_odd_word_is_refused_and_nobody_becomes_root(self, runtime: Runtime, user: str) -> None:
        done = runtime("exec", "-u", user, "C", "id", "-u")
        assert (done.returncode, done.stdout) == (255, "")
        assert "is not a numeric id" in done.stderr

    def test_digits_are_a_number_although_passwd_has_such_a_name(self, runtime: Runtime) -> None:
        assert runtime("exec", "-u", "1000", "C", "id", "-u").stdout == "1000\n"
        assert runtime("exec", "-u", "1000:1000", "C", "id", "-g").stdout == "1000\n"

    def test_number_of_a_process_file_has_32_bits(self, runtime: Runtime, folder: Path) -> None:
        done = runtime("exec", "-p", str(self.process_file(folder)), "C")
        assert "user.uid: 4294967296 is out of range" in done.stderr
        assert done.returncode != 0

    def test_twin_numbers_as_python_takes_them_make_root(self, folder: Path) -> None:
        with weakened_corten.build(*ANY_NUMBER, *ANY_NUMBER_OF_A_FILE) as weak:
            for runtime in self.living(folder, weak.commands):
                for user in ("٠", " 0", "4294967296"):
                    assert runtime("exec", "-u", user, "C", "id", "-u").stdout == "0\n", user
                assert runtime("exec", "-p", str(self.process_file(folder)), "C").stdout == "0\n"

    def process_file(self, folder: Path) -> Path:
        path = folder / "process.json"
        env = ["PATH=/bin"]
        path.write_text(json.dumps({"args": ["id", "-u"], "cwd": "/", "env": env, "user": {"uid": 1 << 32, "gid": 0}}))
        return path


class TestSysctlValues:
    """CRI-O 2022-0811: `+` or a newline in a value, which a helper takes for the next setting."""

    VALUES = ("8100+kernel.msgmnb=4242", "8100\nkernel.msgmnb=4242", "8100\nkernel/msgmnb = 4242")

    def document(self, machine: Machine, value: str) -> dict[str, Any]:
        document = machine.config("cat", "/proc/sys/kernel/msgmnb")
        document["linux"]["sysctl"] = {"kernel.msgmax": value}
        return document

    def split(self, plan: Plan) -> Plan:
        """The value taken apart as pinns did it."""
        ops: list[Op] = []
        for op in plan.ops:
            if isinstance(op, WriteFile) and op.path == "sys/kernel/msgmax":
                first, *others = op.data.replace(b"+", b"\n").split(b"\n")
                ops.append(WriteFile(op.slot, op.path, first))
                for name, _, value in (other.partition(b"=") for other in others):
                    path = "sys/" + name.decode().strip().replace(".", "/")
                    ops.append(WriteFile(op.slot, path, value.strip()))
            else:
                ops.append(op)
        return Plan(tuple(ops), plan.inputs, plan.preserve_fds)

    @pytest.mark.parametrize("value", VALUES)
    def test_value_is_written_to_one_file_or_refused(self, machine: Machine, value: str) -> None:
        done = machine.run(self.document(machine, value))
        assert "4242" not in done.lines
        assert done.failure

    @pytest.mark.parametrize("value", VALUES)
    def test_twin_a_plan_that_takes_it_apart_sets_another(self, machine: Machine, value: str) -> None:
        plan = machine.plan(self.document(machine, value))
        assert machine.spawn(plan, transform=self.split).finish().lines == ["4242"]
