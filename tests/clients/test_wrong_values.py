"""Every flag of `create` with values that are none: corten says what docker says, with the same code."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clients.wording import worded_anew
from corten.cli.options import FLAGS
from support import images, paths, peers
from support.dockerd import client_environment
from support.engine import CortenEngine

VALUES = ("", "-1", "a:b:c:d")
MORE_VALUES = ("99999999999999999999", "=", "/x/\x1b[m:")
# Besides: values of one flag, right ones among them.
MORE = {
    "--restart": (":3", ":", "on-failure:+3", "on-failure:x", "on-failure:9223372036854775808", "on-failure:1:2"),
    "--health-interval": ("2000\u00b5s", "2000\u03bcs", "1\u03bcs"),
}
NAMES = [next(name for name in names if name.startswith("--")).partition("/")[0] for names, _, _ in FLAGS]
# What may differ, and why: (flag, value), or the flag for all of its values.
DIFFERENT: dict[str | tuple[str, str], str] = {
    "--health-on-failure": "Corten's own",
    "--cidfile": "the second client finds the first one's file",
    "--name": "the second client finds the first one's container",
    "--volume": "a volume is refused by its name, not as a missing driver",
    ("--publish", "a:b:c:d"): "docker takes the address apart at another colon",
    ("--publish", "/x/\x1b[m:"): "docker looks for the port before the protocol",
    ("--platform", "a:b:c:d"): "platforms have docker's older form",
    ("--platform", "="): "the same",
    ("--platform", "/x/\x1b[m:"): "the same",
    **{
        (flag, "99999999999999999999"): "docker's number overflows, and it asks for another limit than was given"
        for flag in (
            "--kernel-memory",
            "--memory",
            "--memory-reservation",
            "--memory-swap",
            "--shm-size",
            "--io-maxbandwidth",
        )
    },
}


@pytest.fixture(scope="module")
def wrong() -> Iterator[CortenEngine]:
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


def said(program: str | Path, engine: CortenEngine, flag: str, value: str, folder: Path) -> tuple[int, str]:
    """(exit code, stderr) without the program's name; ids are left out."""
    argv = [str(program), "-H", engine.host, "create", f"{flag}={value}", images.BUSYBOX_REF, "true"]
    done = subprocess.run(
        argv,
        capture_output=True,
        check=False,
        timeout=30,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=client_environment(),
    )
    text = done.stderr.decode().replace("docker", "corten").replace("Docker", "Corten")
    return done.returncode, worded_anew(text)


@pytest.mark.parametrize("flag", NAMES)
def test_wrong_values_of_a_flag_are_refused_as_by_docker(wrong: CortenEngine, tmp_path: Path, flag: str) -> None:
    compare(wrong, flag, VALUES + MORE.get(flag, ()), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flag", NAMES)
def test_more_wrong_values_of_a_flag_are_refused_as_by_docker(wrong: CortenEngine, tmp_path: Path, flag: str) -> None:
    compare(wrong, flag, MORE_VALUES, tmp_path)


def compare(wrong: CortenEngine, flag: str, values: Sequence[str], folder: Path) -> None:
    """Both clients with each value."""

    def both(value: str) -> tuple[tuple[int, str], tuple[int, str]]:
        docker = said(peers.docker_cli(), wrong, flag, value, folder)
        return docker, said(paths.COMMANDS / "corten", wrong, flag, value, folder)

    with ThreadPoolExecutor(3) as threads:
        answers = dict(zip(values, threads.map(both, values), strict=True))
    for value, (docker, corten) in answers.items():
        assert "Traceback" not in corten[1], value
        if flag not in DIFFERENT and (flag, value) not in DIFFERENT:
            assert corten == docker, value
        elif "overflows" in DIFFERENT.get((flag, value), ""):
            assert corten[0] == 125
            assert f"invalid size: '{value}'" in corten[1]
