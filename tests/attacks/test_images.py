"""Hostile images and containers against the whole engine: `docker load` and `docker run`, from door to kernel.

Each attack has a twin: the same request to an engine that was built without the defending step does its harm.
`outside` is a directory of the host that no container was given.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from support import images, paths, programs, races, summary, weakened, weakened_corten
from support import tarballs as t
from support.engine import CortenEngine
from support.hostile import ESCAPES, Place, look
from support.races import Race, Wanted
from support.weakened import Edit

NUMBERS = range(3, 13)
SWAPPED_STARTS = 25
ATTACK_S = 8
ATTACKS = 10  # of so many seconds each, at most
SLOW = (pytest.mark.slow, pytest.mark.timeout(900))
pytestmark = races.TIMEOUT

MakeWeak = Callable[..., CortenEngine]


@pytest.fixture
def weak_engine() -> Iterator[MakeWeak]:
    """Empty engines, built without some step."""
    with ExitStack() as stack:

        def make(*edits: Edit, launcher: tuple[Edit, ...] = ()) -> CortenEngine:
            build = stack.enter_context(weakened_corten.build(*edits, launcher=launcher))
            return stack.enter_context(CortenEngine(commands=build.commands))

        yield make


def load(engine: CortenEngine, name: str, *entries: images.Entry, **config: Any) -> str:
    """An image of busybox with a further layer; its name."""
    layers = [*images.busybox_layers(), images.layer(entries)]
    whole = {"Cmd": ["sh"], "Env": ["PATH=/bin"], **config}
    engine.docker("load", stdin=images.docker_archive([name], layers, whole), check=True)
    return name


# Layers.


@pytest.fixture
def place() -> Iterator[Place]:
    folder = paths.scratch("place")
    (folder / "outside").mkdir()
    (folder / "outside/victim").write_text("precious")
    yield Place(folder, folder / "outside", look(folder / "outside"))
    shutil.rmtree(folder)


def load_layer(engine: CortenEngine, layer: bytes) -> None:
    """As the upper one of two: what lies below is not known while it is unpacked."""
    base = t.archive(t.directory(b"bin"))
    engine.docker("load", stdin=t.docker_archive([base, layer], ("hostile:1",)))


def test_no_layer_of_a_loaded_image_leaves_its_directory(shared_engine: CortenEngine, place: Place) -> None:
    for name, escape in ESCAPES.items():
        load_layer(shared_engine, escape.archive(place.outside))
        assert place.untouched(), name


def test_twin_every_layer_leaves_an_engine_without_the_steps(weak_engine: MakeWeak, place: Place) -> None:
    steps = weakened_corten.NAMES + weakened_corten.LINKS + weakened_corten.CREATION
    engine = weak_engine(*steps)
    for name, escape in ESCAPES.items():
        load_layer(engine, escape.archive(place.outside))
        assert not place.untouched(), name
        restore(place)


def restore(place: Place) -> None:
    shutil.rmtree(place.outside)
    place.outside.mkdir()
    (place.outside / "victim").write_text("precious")
    place.before[:] = look(place.outside)


# CVE-2024-21626: the working directory is a descriptor of the host.


def read_by_descriptor(engine: CortenEngine) -> list[str]:
    """What containers read whose images have /proc/self/fd/N as their working directory."""
    read = []
    for number in NUMBERS:
        image = load(engine, f"fd:{number}", WorkingDir=f"/proc/self/fd/{number}")
        read.append(engine.docker("run", "--rm", "--network", "none", image, "cat", "secret").stdout)
    return read


def test_no_descriptor_is_a_working_directory(weak_engine: MakeWeak, outside: Path) -> None:
    """The engine leaks one on purpose: what is tested is the check of the directory."""
    assert set(read_by_descriptor(weak_engine(*weakened_corten.leaking(outside)))) == {""}


def test_nothing_is_leaked_that_could_be_one(weak_engine: MakeWeak) -> None:
    """An engine without the check of the directory: what is tested is that nothing leaks."""
    engine = weak_engine(launcher=weakened.UNCHECKED_CWD)
    for number in NUMBERS:
        image = load(engine, f"fd:{number}", WorkingDir=f"/proc/self/fd/{number}")
        assert engine.docker("run", "--rm", "--network", "none", image, "ls", "-A").stdout == ""


def test_twin_a_leaked_descriptor_is_a_working_directory(weak_engine: MakeWeak, outside: Path) -> None:
    engine = weak_engine(*weakened_corten.leaking(outside), launcher=weakened.UNCHECKED_CWD)
    assert "of the host\n" in read_by_descriptor(engine)


# CVE-2019-18837, 2021-30465: links of the image on the way to a mount point.


LINKED: dict[str, tuple[str, ...]] = {
    "volume": ("-v", "/usr:/way/made"),
    "tmpfs": ("--tmpfs", "/way/made"),
    "mount": ("--mount", "type=tmpfs,destination=/way/made"),
    "working directory": ("-w", "/way/made"),
    "file": ("-v", "/etc/hostname:/way/made"),
}


def mounted_through_link(engine: CortenEngine, outside: Path, options: tuple[str, ...]) -> bool:
    """Whether a target behind a link of the image was made on the host."""
    image = load(engine, "linked:1", images.symlink("way", str(outside)))
    done = engine.docker("run", "--rm", "--network", "none", *options, image, "true")
    is_made = (outside / "made").exists()
    assert is_made or done.returncode == 0, done.stderr
    return is_made


@pytest.mark.parametrize("kind", LINKED)
def test_a_link_on_the_way_to_a_mount_point_stays_inside(shared_engine: CortenEngine, outside: Path, kind: str) -> None:
    assert not mounted_through_link(shared_engine, outside, LINKED[kind])


def test_twin_without_the_resolver_it_is_made_on_the_host(weak_engine: MakeWeak, outside: Path) -> None:
    engine = weak_engine(launcher=weakened.FOLLOW_LINKS)
    for kind, options in LINKED.items():
        assert mounted_through_link(engine, outside, options), kind
        made = outside / "made"
        made.rmdir() if made.is_dir() else made.unlink()


# CVE-2021-30465 as it was found: one container swaps names in a volume that the next one mounts into.


def swapped(engine: CortenEngine, outside: Path, starts: int = SWAPPED_STARTS, wanted: Wanted = "met") -> Race:
    """Starts that met the link, starts whose target was made on the host."""
    volume = outside.with_name(outside.name + "-volume")
    (volume / "d").mkdir(parents=True)
    (volume / "link").symlink_to(outside)
    programs.build(Path(__file__).with_name("swap.c"), volume / "swap")
    options = ("--network", "none", "-v", f"{volume}:/data")
    try:
        attacker = (
            "run",
            "-d",
            "--name",
            "attacker",
            *options,
            images.BUSYBOX_REF,
            "/data/swap",
            "/data/d",
            "/data/link",
        )
        engine.docker(*attacker, check=True)
        race = Race()
        for number in race.until(starts, wanted):
            target = ("-v", f"/usr:/data/d/made{number}")
            seen = engine.docker("run", "--rm", *options, *target, images.BUSYBOX_REF, "ls", f"{outside}/made{number}")
            race.escaped += (outside / f"made{number}").exists()
            race.met += seen.returncode == 0 or (outside / f"made{number}").exists()
        return race
    finally:
        engine.docker("rm", "-f", "attacker")
        shutil.rmtree(volume)


@pytest.mark.parametrize("starts", [SWAPPED_STARTS, pytest.param(1000, marks=SLOW)])
def test_a_volume_whose_names_are_swapped_leads_nowhere(
    shared_engine: CortenEngine, outside: Path, starts: int
) -> None:
    race = swapped(shared_engine, outside, starts)
    seen = f"link met in {race.met} of {race.rounds}, {race.escaped} out"
    summary.add("races", f"volume's names swapped by a container: {seen}")
    assert race.escaped == 0
    assert race.met > 0, races.NEVER


def test_twin_without_the_resolver_a_swapped_volume_leads_out(weak_engine: MakeWeak, outside: Path) -> None:
    engine = weak_engine(launcher=weakened.FOLLOW_LINKS)
    engine.docker("load", "-i", str(images.busybox()), check=True)
    race = swapped(engine, outside, wanted="escaped")
    seen = f"link met in {race.met} of {race.rounds}, {race.escaped} out"
    summary.add("races", f"volume's names swapped, twin: {seen}")
    assert race.escaped > 0, races.NEVER


# CVE-2019-5736: a container overwrites the program that enters it.


def overwritten(engine: CortenEngine, folder: Path, seconds: int = ATTACK_S) -> tuple[int, str]:
    """(launchers caught, the outcome) of execs in a container that waits for them."""
    programs.build(Path(__file__).with_name("overwrite.c"), folder / "overwrite")
    victim = images.Entry("bin/victim", b"#!/proc/self/exe\n", mode=0o755)
    image = load(engine, "overwrite:1", victim)
    options = ("-d", "--name", "attacker", "--network", "none", "-v", f"{folder}:/attack")
    engine.docker("run", *options, image, "/attack/overwrite", str(seconds), check=True)
    while engine.docker("inspect", "-f", "{{.State.Running}}", "attacker").stdout == "true\n":
        with suppress(subprocess.TimeoutExpired):  # stopped by the attacker
            engine.docker("exec", "attacker", "victim", timeout=3)
    engine.docker("wait", "attacker", check=True)
    lines = engine.docker("logs", "attacker", check=True).stdout.splitlines()
    engine.docker("rm", "attacker", check=True)
    return int(lines[1].removeprefix("caught ")), lines[2]


@pytest.mark.parametrize("seconds", [ATTACK_S, pytest.param(300, marks=SLOW)])
def test_a_container_cannot_overwrite_what_enters_it(shared_engine: CortenEngine, outside: Path, seconds: int) -> None:
    race = Race()
    for _ in race.until(1, most=ATTACKS):
        caught, outcome = overwritten(shared_engine, outside, seconds)
        race.met += caught
        assert outcome != "written"
    summary.add("races", f"/proc/PID/exe by docker exec: caught {race.met} times in {race.rounds}, {outcome}")
    assert race.met > 0, races.NEVER
    assert shared_engine.docker("run", "--rm", images.BUSYBOX_REF, "echo", "hi").stdout == "hi\n"


def test_twin_an_engine_whose_launcher_is_a_file_loses_it(outside: Path) -> None:
    with weakened_corten.build(*weakened_corten.UNSEALED) as build, CortenEngine(commands=build.commands) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        program = build.folder / "build/launcher/corten-launch"
        race = Race()
        for _ in race.until(1, "escaped", most=ATTACKS):
            caught, outcome = overwritten(engine, outside)
            race.met += caught
            race.escaped += outcome == "written"
        summary.add("races", f"/proc/PID/exe by docker exec, twin: caught {race.met} times in {race.rounds}, {outcome}")
        assert (outcome, program.read_bytes()[:4]) == ("written", b"EVIL")


# CVE-2026-41579: /dev of the image is a link.


@pytest.mark.parametrize("target", ["absolute", "missing", "dangling"])
def test_a_linked_dev_gives_no_file_to_the_host(shared_engine: CortenEngine, outside: Path, target: str) -> None:
    link = {"absolute": str(outside), "missing": f"{outside}/made", "dangling": "nowhere"}[target]
    image = load_without_dev(shared_engine, link)
    before = look(outside)
    done = shared_engine.docker("run", "--rm", image, "ls", "/dev/null")
    assert look(outside) == before
    assert (done.returncode, done.stdout) == (0, "/dev/null\n"), done.stderr


def load_without_dev(engine: CortenEngine, link: str) -> str:
    """An image whose /dev, /proc and /sys are links out."""
    first, second = images.busybox_layers()
    names = ("dev", "proc", "sys")
    gone = [images.Entry(f".wh.{name}") for name in names]
    layers = [first, second, images.layer(gone), images.layer([images.symlink(name, link) for name in names])]
    engine.docker("load", stdin=images.docker_archive(["nodev:1"], layers, {"Cmd": ["sh"]}), check=True)
    return "nodev:1"
