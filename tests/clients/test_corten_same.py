"""The corten CLI beside docker's, against the same engine: the same stdout, stderr and exit code, command by command.

The command lines are in `same_answers` and `same_seeing`.  What is no answer of the command's own is taken out: the
program's name, and ids and names of the containers that a command itself made.  Both run at once where they only look,
so that ages are those of one moment; what differs is asked for again, three times in all.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import same_answers, same_copies, same_networks, same_seeing
from clients.api import Api
from clients.wording import worded_anew
from support import images, paths, peers, summary
from support.dockerd import client_environment
from support.engine import CortenEngine
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
ODD = ("sh", "-c", '"a"\t\\\nb')  # a command that is shown in quotes, on one line
NAMES = ("cli-box", "cli-done", "cli-tty", "cli-new", "cli-paused")
_PROGRAM = re.compile(r"\b(docker|corten)\b")
_OWN = re.compile(r"(?<=/)[0-9a-f]{64}(?=/)|endpoint \w+ \([0-9a-f]{64}\)")
_ROUNDS = 15  # ages of several containers tick at different moments, and the two clients ask some 50 ms apart

Answer = tuple[int, str, str]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CortenEngine]:
    """An engine of its own: lists have nothing of other tests in them."""
    with CortenEngine() as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        options = ("-p", "127.0.0.1:8901:80", "--label", "corten.test=cli", "--label", "b=c", "-e", "A=b")
        engine.docker("run", "-d", "--name", "cli-box", *options, IMAGE, "sleep", "10000", check=True)
        engine.docker("run", "--name", "cli-done", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3")
        engine.docker("run", "-d", "--name", "cli-tty", "-t", IMAGE, "sleep", "10000", check=True)
        engine.docker("create", "--name", "cli-new", "-v", "/tmp:/x", IMAGE, *ODD, check=True)
        engine.docker("run", "-d", "--name", "cli-paused", IMAGE, "sleep", "10000", check=True)
        engine.docker("pause", "cli-paused", check=True)
        engine.docker("network", "create", "--label", "a=b", "cli-net", check=True)
        engine.docker("network", "create", "--subnet", "10.99.9.0/24", "--internal", "cli-net9", check=True)
        engine.docker("network", "connect", "--alias", "box", "cli-net", "cli-box", check=True)
        yield engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for `--env-file`, good and bad."""
    found = tmp_path_factory.mktemp("same")
    for name, data in {
        "good": b"GOOD=1\n",
        "spaces": b"A=1\nB B=2\n",
        "noname": b"=x\n",
        "bytes": b"\xff\xfe=1\n",
    }.items():
        (found / name).write_bytes(data)
    return found


def lines(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if line]


def begin(program: str | Path, engine: CortenEngine, args: list[str]) -> subprocess.Popen[bytes]:
    argv = [str(program), "-H", engine.host, *args]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=nothing, stdout=pipe, stderr=pipe, env=client_environment())


def end(process: subprocess.Popen[bytes]) -> Answer:
    out, err = (_PROGRAM.sub("CLI", data.decode(errors="replace")) for data in process.communicate(timeout=60))
    return process.returncode, out, _OWN.sub("OWN", err).strip()


def both(
    engine: CortenEngine, command: str, folder: Path, *, window: str = "", at_once: bool = False, rounds: int = _ROUNDS
) -> tuple[Answer, Answer]:
    """Docker's answer and ours; again when they differ, for what may have changed between the two."""
    command = command.replace("{window}", window)
    args = [word.replace("{image}", IMAGE).replace("{folder}", str(folder)) for word in shlex.split(command)]
    programs = (peers.docker_cli(), paths.COMMANDS / "corten")
    for _ in range(rounds):
        if at_once:
            theirs, ours = map(end, [begin(program, engine, args) for program in programs])
        else:
            theirs, ours = (end(begin(program, engine, args)) for program in programs)
        theirs, ours = anew(theirs), anew(ours)
        if ours == theirs:
            break
    return theirs, ours


def anew(answer: Answer) -> Answer:
    code, out, err = answer
    return code, out, worded_anew(err)


def left_over(engine: CortenEngine) -> set[str]:
    """Removes containers that are not the fixture's; their names."""
    api = Api(engine.socket)
    names = {row["Names"][0].lstrip("/") for row in api.ok("GET", "/containers/json?all=1")} - set(NAMES)
    for name in names:
        api.remove(name)
    return names


@pytest.mark.parametrize("command", lines(same_answers.CONTAINERS))
def test_verbs_on_containers_and_images(box: CortenEngine, folder: Path, command: str) -> None:
    theirs, ours = both(box, command, folder)
    assert ours == theirs


@pytest.mark.parametrize("command", lines(same_answers.CREATION))
def test_run_and_create(box: CortenEngine, folder: Path, command: str) -> None:
    """Neither leaves a container behind that the other does not."""
    theirs, ours = both(box, command, folder)
    assert ours == theirs
    left = left_over(box)
    assert len(left) % 2 == 0, left


@pytest.mark.parametrize("command", lines(same_answers.LISTS))
def test_lists_and_tables(box: CortenEngine, folder: Path, command: str) -> None:
    theirs, ours = both(box, command, folder, at_once=True)
    assert ours == theirs


@pytest.mark.parametrize("command", lines(same_networks.SEEN))
def test_networks_that_are_looked_at(box: CortenEngine, folder: Path, command: str) -> None:
    theirs, ours = both(box, command, folder, at_once=True)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("command", lines(same_networks.WRONG + same_networks.RUN))
def test_networks_of_containers_and_wrong_words(box: CortenEngine, folder: Path, command: str) -> None:
    theirs, ours = both(box, command, folder)
    assert ours == theirs


@pytest.mark.parametrize("command", lines(same_networks.CHANGED))
def test_networks_that_are_changed(box: CortenEngine, folder: Path, command: str) -> None:
    theirs, ours = both(box, command, folder)
    assert ours == theirs


def test_one_makes_what_the_other_removes(box: CortenEngine, folder: Path) -> None:
    """Networks and connections of corten's making are docker's, and the other way round."""
    programs = (peers.docker_cli(), paths.COMMANDS / "corten")
    for makes, ends in (programs, programs[::-1]):
        for program, line in (
            (
                makes,
                "network create -d bridge --ipv6 --internal --label x=y -o com.docker.network.driver.mtu=1400 made",
            ),
            (makes, "network connect --alias named --gw-priority -7 made cli-new"),
        ):
            assert end(begin(program, box, shlex.split(line)))[0] == 0
        found = Api(box.socket).ok("GET", "/networks/made")
        assert (found["EnableIPv6"], found["Internal"], found["Labels"]) == (True, True, {"x": "y"})
        assert found["Options"] == {"com.docker.network.driver.mtu": "1400"}
        settings = Api(box.socket).ok("GET", "/containers/cli-new/json")["NetworkSettings"]["Networks"]["made"]
        assert (settings["Aliases"], settings["GwPriority"]) == (["named"], -7)
        assert end(begin(ends, box, ["network", "disconnect", "made", "cli-new"])) == (0, "", "")
        assert end(begin(ends, box, ["network", "prune", "-f", "--filter", "label=x=y"])) == (
            *(0, "Deleted Networks:\nmade\n\n", ""),
        )


@pytest.mark.parametrize("command", lines(same_copies.COPIES))
def test_copies(box: CortenEngine, folder: Path, command: str) -> None:
    theirs, ours = both(box, command, folder)
    assert ours == theirs


@pytest.mark.parametrize("command", lines(same_seeing.STATS))
def test_stats(box: CortenEngine, folder: Path, command: str) -> None:
    theirs, ours = both(box, command, folder, at_once=True)
    assert ours == theirs


@pytest.fixture(scope="module")
def window(box: CortenEngine) -> str:
    """`--since` and `--until` around events of every type that this engine has."""
    start = time.time()
    box.docker("run", "--rm", "--label", "corten.test=cli", IMAGE, "true", check=True)
    box.docker("exec", "cli-box", "true", check=True)
    box.docker("tag", IMAGE, "cli/events:1", check=True)
    box.docker("rmi", "cli/events:1", check=True)
    shown = ("events", "--since", f"{start:.6f}", "--until", "0s", "--format", "{{.Type}} {{.Action}}")
    wait_for(lambda: {"container destroy", "container exec_die"} <= set(box.docker(*shown).stdout.splitlines()), "ends")
    return f"--since {start:.6f} --until {time.time():.6f}"


@pytest.mark.parametrize("command", lines(same_seeing.EVENTS))
def test_events(box: CortenEngine, folder: Path, window: str, command: str) -> None:
    theirs, ours = both(box, command, folder, window=window, at_once=True)
    assert ours == theirs


def test_the_window_has_events_of_all_types(box: CortenEngine, folder: Path, window: str) -> None:
    shown = both(box, "events {window} --format '{{.Type}} {{.Action}}'", folder, window=window)[1][1]
    for event in ("container create", "container start", "container die", "container destroy", "image tag",
                  "image untag", "network connect", "network disconnect", "container exec_die"):  # fmt: skip
        assert event in shown


@pytest.mark.parametrize("command", same_answers.DIFFERENT)
def test_explained_difference_is_one(box: CortenEngine, folder: Path, command: str) -> None:
    theirs, ours = both(box, command, folder, rounds=1)
    assert ours != theirs, "no difference any more: move it to the others"
    summary.add(
        "command lines that docker and corten answer differently", f"{command}: {same_answers.DIFFERENT[command]}"
    )
    left_over(box)


def test_info_differs_in_the_clients_version_and_the_moment_alone(box: CortenEngine, folder: Path) -> None:
    theirs, ours = both(box, "info", folder, rounds=1)
    own = re.compile(r"^ Version: .*|^  (System Time|File Descriptors|EventsListeners): .*", re.M)
    assert own.sub("", ours[1]) == own.sub("", theirs[1])


def test_version_differs_in_the_client_alone(box: CortenEngine, folder: Path) -> None:
    theirs, ours = both(box, "version", folder, rounds=1)
    assert ours[1].partition("Server:")[2] == theirs[1].partition("Server:")[2] != ""
