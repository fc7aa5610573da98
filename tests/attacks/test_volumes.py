"""Hostile images and containers against volumes: copy-up (CVE-2022-23648, podman CVE-2020-1726) and subpaths.

`outside` is a directory of the host that no container was given; each attack's twin is an engine whose openat2 has no
rules.  The races go on until the attacker's link was met.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import images, programs, races, summary, weakened_corten
from support.engine import CortenEngine
from support.races import Race, Wanted

DIRECTORIES = 400
ROUNDS = 4
SUBPATH_STARTS = 12
SLOW = (pytest.mark.slow, pytest.mark.timeout(900))
pytestmark = races.TIMEOUT


def load(engine: CortenEngine, name: str, *entries: images.Entry, **config: object) -> str:
    layers = [*images.busybox_layers(), images.layer(entries)]
    whole = {"Cmd": ["sh"], "Env": ["PATH=/bin"], **config}
    engine.docker("load", stdin=images.docker_archive([name], layers, whole), check=True)
    return name


@contextmanager
def weak_engine() -> Iterator[CortenEngine]:
    with weakened_corten.build(*weakened_corten.LINKS) as weak, CortenEngine(commands=weak.commands) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


# An image whose volume is a link.


def copied(engine: CortenEngine, outside: Path) -> str:
    """What a container finds in a volume over a link that leads out of the image."""
    image = load(engine, "linked:1", images.symlink("way", str(outside)), Volumes={"/way": {}})
    named = engine.docker("run", "--rm", "-v", "stolen:/way", image, "true")
    done = engine.docker("run", "--rm", "-v", "stolen:/stolen", images.BUSYBOX_REF, "sh", "-c", "cat /stolen/*")
    engine.docker("volume", "rm", "-f", "stolen")
    return named.stdout + done.stdout


def test_a_volume_over_a_link_copies_nothing_of_the_host(shared_engine: CortenEngine, outside: Path) -> None:
    assert "of the host" not in copied(shared_engine, outside)
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_twin_a_volume_over_a_link_copies_the_hosts_files(outside: Path) -> None:
    with weak_engine() as engine:
        assert "of the host" in copied(engine, outside)


def test_links_inside_the_image_are_copied_as_links(shared_engine: CortenEngine, outside: Path) -> None:
    entries = (images.directory("data"), images.symlink("data/out", str(outside)), images.symlink("data/up", "../.."))
    image = load(shared_engine, "links:1", *entries)
    script = f"ls -l /data/; cat /data/out/secret; cat {outside}/secret"
    seen = shared_engine.docker("run", "--rm", "-v", "links:/data", image, "sh", "-c", script)
    assert f"out -> {outside}" in seen.stdout
    assert "of the host" not in seen.stdout
    shared_engine.docker("volume", "rm", "links", check=True)


# A container that has the volume already, and swaps names in it while it is filled.

SWAPPER = """
while :; do
  for d in /v/d*; do
    rmdir "$d" 2>/dev/null && ln -s OUTSIDE "$d" && touch /met/met
  done
  [ -e /met/stop ] && exit
done
"""


def filled(engine: CortenEngine, outside: Path, rounds: int, wanted: Wanted = "met") -> tuple[Race, list[str]]:
    """(rounds in which a link came into the way, and led out), what appeared on the host, after which it ends."""
    entries = []
    for number in range(DIRECTORIES):
        entries += [images.directory(f"data/d{number}"), images.Entry(f"data/d{number}/planted", b"x")]
    image = load(engine, "many:1", images.directory("data"), *entries)
    signs = outside.with_name(outside.name + "-signs")
    race, planted = Race(), []
    for _ in race.until(rounds, wanted):
        signs.mkdir()
        script = SWAPPER.replace("OUTSIDE", str(outside))
        options = ("-d", "--rm", "--name", "swapper", "-v", "swapped:/v", "-v", f"{signs}:/met")
        engine.docker("run", *options, images.BUSYBOX_REF, "sh", "-c", script, check=True)
        engine.docker("create", "--name", "filled", "-v", "swapped:/data", image)
        engine.docker("rm", "-f", "swapper", "filled")
        race.met += (signs / "met").exists()
        shutil.rmtree(signs)
        engine.docker("volume", "rm", "-f", "swapped")
        planted = sorted(path.name for path in outside.iterdir() if path.name != "secret")
        race.escaped += bool(planted)
        if planted:
            break
    return race, planted


@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(200, marks=SLOW)])
def test_a_volume_whose_names_are_swapped_while_it_is_filled_leads_nowhere(
    shared_engine: CortenEngine, outside: Path, rounds: int
) -> None:
    race, planted = filled(shared_engine, outside, rounds)
    seen = f"link met in {race.met} of {race.rounds}, {len(planted)} out"
    summary.add("races", f"volume swapped while it is filled: {seen}")
    assert planted == []
    assert race.met > 0, races.NEVER


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twin_a_volume_whose_names_are_swapped_is_filled_on_the_host(outside: Path) -> None:
    with weak_engine() as engine:
        assert filled(engine, outside, ROUNDS, "escaped")[1] == ["planted"]


# A container that swaps the subpath that the next one is given.


def subpaths(engine: CortenEngine, outside: Path, starts: int, wanted: Wanted = "met") -> Race:
    """Starts that were refused for the link, starts that saw the host's file, after which it ends."""
    binary = outside.with_name(outside.name + "-swap")
    programs.build(Path(__file__).with_name("swap.c"), binary)
    script = f"mkdir /v/sub; echo mine > /v/sub/secret; ln -s {outside} /v/link"
    engine.docker("run", "--rm", "-v", "subs:/v", images.BUSYBOX_REF, "sh", "-c", script, check=True)
    attack = ("-d", "--name", "attacker", "-v", "subs:/v", "-v", f"{binary}:/swap")
    engine.docker("run", *attack, images.BUSYBOX_REF, "/swap", "/v/sub", "/v/link", check=True)
    victim = ("run", "--rm", "--network", "none", "--mount", "type=volume,src=subs,dst=/x,volume-subpath=sub")
    race = Race()
    try:
        for _ in race.until(starts, wanted):
            done = engine.docker(*victim, images.BUSYBOX_REF, "cat", "/x/secret")
            race.met += "escapes" in done.stderr
            race.escaped += "of the host" in done.stdout
            if race.escaped:
                break
    finally:
        engine.docker("rm", "-f", "attacker")
        engine.docker("volume", "rm", "-f", "subs")
        binary.unlink()
    return race


@pytest.mark.parametrize("starts", [SUBPATH_STARTS, pytest.param(1000, marks=SLOW)])
def test_a_subpath_that_is_swapped_leads_nowhere(shared_engine: CortenEngine, outside: Path, starts: int) -> None:
    race = subpaths(shared_engine, outside, starts)
    summary.add("races", f"subpath swapped: link met in {race.met} of {race.rounds}, {race.escaped} out")
    assert race.escaped == 0
    assert race.met > 0, races.NEVER


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twin_a_subpath_that_is_swapped_leads_out(outside: Path) -> None:
    with weak_engine() as engine:
        assert subpaths(engine, outside, SUBPATH_STARTS, "escaped").escaped > 0, races.NEVER


@pytest.mark.parametrize("name", ["../../x", "..", ".", "a/../../b", "/etc", "a b", "a\n", "ä", "-x"])
def test_names_of_volumes_are_no_paths(shared_engine: CortenEngine, name: str) -> None:
    done = shared_engine.docker("volume", "create", "--", name)
    assert done.returncode != 0
    assert "volume name" in done.stderr
    folder = shared_engine.data_root / "volumes"
    assert all(path.parent == folder for path in folder.iterdir())
