"""The judge where nobody else is: what bears no name of the engine is a leak as well."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from support import paths, process, summary
from support.leaks.alone import GROUP


@pytest.mark.timeout(240)
def test_alone_lives_and_deaths_leave_nothing_at_all_and_leaks_without_a_name_are_found() -> None:
    name = GROUP.format(pid=os.getpid())
    inner = [sys.executable, "-m", "support.leaks.alone", name]
    argv = ["unshare", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--mount-proc", "--kill-child"]
    # sh is process 1: orphans are its children, not the judge's
    argv += ["sh", "-c", '"$@" & wait $!', "sh", *inner]
    try:
        done = subprocess.run(
            argv,
            check=False,
            cwd=paths.REPOSITORY / "tests",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=210,
        )
    finally:
        process.remove_cgroups(name)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([*lines, done.stderr])
    found = [line.removeprefix("found: ") for line in lines if line.startswith("found: ")]
    assert len({line.partition(",")[0] for line in found}) >= 9, "kinds"
    clean = [line.removeprefix("clean: ") for line in lines if line.startswith("clean: ")]
    deaths = {f"a death, {who}" for who in ("shim", "zygote", "helper", "cortend")}
    assert set(clean) == deaths | {"three lives and a --rm", "a kill and an adoption"}
    for line in found:
        summary.add("leaks without a name planted and found, alone", line)
