"""The same output through dockerd and through a shim gives the same log, but for the times."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from support import images
from support.dockerd import Dockerd
from support.shimlab import Lab

TIME = re.compile(rb'"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,8}[1-9]|\.[1-9])?Z"')

# printf of the shell; each line is one kind of trouble
NASTY = r"""
printf 'plain\n\n"quoted" back\\slash <tag> & tab\there cr\r\n'
printf '\001\002\033[31mred\033[0m\177\010\014\n'
printf 'utf8 \303\251 \342\202\254 \360\235\204\236 separators \342\200\250 \342\200\251\n'
printf 'broken \377 \342\202 \303 \355\240\200 \300\257 \364\220\200\200\n'
head -c 16383 /dev/zero | tr '\0' a; echo
head -c 16384 /dev/zero | tr '\0' b; echo
head -c 16385 /dev/zero | tr '\0' c; echo
head -c 50000 /dev/zero | tr '\0' d; echo
sleep 0.3
printf 'unfinished'
"""


async def test_a_log_is_byte_for_byte_that_of_dockerd(dockerd: Dockerd) -> None:
    name = "nasty-log"
    dockerd.docker("run", "--name", name, "--log-opt", "env=WHO,X", "-e", "WHO=<me>&\tyou", images.BUSYBOX_REF,
                   "sh", "-c", NASTY, check=True)  # fmt: skip
    path = json.loads(dockerd.docker("inspect", name, check=True).stdout)[0]["LogPath"]
    theirs = read_as_root(path)
    dockerd.docker("rm", name, check=True)
    async with Lab() as lab:
        box = await lab.run("sh", "-c", NASTY, log={"attributes": {"WHO": "<me>&\tyou"}})
        await box.wait_event("exit")
        ours = box.log_path.read_bytes()
    assert len(TIME.findall(ours)) == len(ours.splitlines())
    assert TIME.sub(b"T", ours).splitlines() == TIME.sub(b"T", theirs).splitlines()


def read_as_root(path: str) -> bytes:
    """dockerd runs in a mount namespace of its own, but its data-root is the host's."""
    return Path(path).read_bytes() if Path(path).exists() else subprocess.check_output(["cat", path])
