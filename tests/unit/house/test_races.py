"""A race goes on until its window was met, and gives up at its bounds alone."""

from __future__ import annotations

import time

import pytest

from support import killpoints, races
from support.races import Race


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still; its one item are the seconds it shows."""
    shown = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: shown[0])
    return shown


@pytest.mark.usefixtures("clock")
def test_a_window_that_is_met_at_once_costs_no_further_round() -> None:
    race = Race()
    for _ in race.until(40):
        race.met += 1
    assert (race.rounds, race.met) == (40, 40)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("wanted", ["met", "escaped"])
def test_a_race_goes_on_until_it_saw_what_is_wanted(wanted: races.Wanted) -> None:
    race = Race()
    for number in race.until(40, wanted):
        race.met += wanted == "met" and number == 333
        race.escaped += wanted == "escaped" and number == 333
    assert race.rounds == 333
    assert race.count(wanted) == 1


def test_it_gives_up_when_both_bounds_are_passed(clock: list[float]) -> None:
    race = Race()
    for number in race.until(4):
        clock[0] = races.PATIENCE_S if number == 200 else 0.0
    assert race.rounds == 200, "so many rounds took less than the seconds"
    race, clock[0] = Race(), 0.0
    for _ in race.until(4):
        clock[0] += races.PATIENCE_S
    assert race.rounds == 4 * races.MOST, "so few took longer"


def test_the_least_time_is_kept_though_the_window_was_met(clock: list[float]) -> None:
    race = Race()
    for _ in race.until(1, seconds=2):
        clock[0] += 0.25
        race.met += 1
    assert race.rounds == 8


@pytest.mark.usefixtures("clock")
def test_who_leaves_a_race_early_keeps_its_count() -> None:
    race = Race()
    for number in race.until(40):
        if number == 3:
            break
    assert race.rounds == 3


@pytest.mark.usefixtures("clock")
def test_kill_points_that_were_missed_are_tried_again_and_no_others() -> None:
    tried: list[str] = []

    def kill(point: str) -> bool:
        tried.append(point)
        return point != "rare" or tried.count("rare") == 3

    assert killpoints.hits(["first", "rare", "last"], kill) == 3
    assert tried == ["first", "rare", "last", "rare", "rare"]


@pytest.mark.usefixtures("clock")
def test_a_share_of_the_kill_points_is_enough_where_no_more_is_asked_for() -> None:
    assert killpoints.hits(["first", "never"], lambda point: point == "first", least=1) == 1


def test_a_kill_point_that_never_comes_is_given_up_in_the_end(clock: list[float]) -> None:
    tried: list[str] = []

    def kill(point: str) -> bool:
        tried.append(point)
        clock[0] += races.PATIENCE_S
        return False

    assert killpoints.hits(["never"], kill) == 0
    assert len(tried) == races.MOST
