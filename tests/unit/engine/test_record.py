"""The state machine of a container, and its record."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from corten.engine import record as records
from corten.engine.record import TRANSITIONS, Move, Place, Record, Status, advance
from corten.errors import FailedPrecondition

from .conftest import ID, Decide


def make(decide: Decide) -> Record:
    return Record(
        id=ID, name="web", image_id="sha256:1", image_ref="busybox", created_ns=5, effective=decide(Labels={"a": "b"})
    )


def drawn() -> dict[tuple[str, str], str]:
    """The table of the module's docstring."""
    lines = (records.__doc__ or "").splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == ["state"])
    moves = lines[start].split()[1:]
    table = {}
    for line in itertools.takewhile(str.strip, lines[start + 1 :]):
        state, *cells = line.split()[: len(moves) + 1]
        for move, cell in zip(moves, cells, strict=True):
            if cell not in ("-", "(gone)"):
                table[state, move] = cell.partition("(")[0]
    return table


def test_the_table_that_is_drawn_is_the_table_that_holds() -> None:
    held = {(str(state), str(move)): str(after) for (state, move), after in TRANSITIONS.items()}
    assert {key: after for key, after in held.items() if key[1] != Move.FAIL_REMOVAL} == drawn()


@pytest.mark.parametrize(("state", "move"), list(itertools.product(Status, Move)))
def test_what_the_table_does_not_have_is_refused(state: Status, move: Move) -> None:
    if (state, move) in TRANSITIONS:
        assert advance(state, move) is TRANSITIONS[state, move]
    else:
        with pytest.raises(FailedPrecondition):
            advance(state, move)


def test_a_record_comes_back_as_it_was(decide: Decide) -> None:
    record = make(decide).with_state(status=Status.RUNNING, pid=7)
    record = msgspec.structs.replace(record, place=Place(networks={"bridge": "e"}))
    assert records.decode(records.encode(record)) == record
    assert record.labels == {"a": "b"}


def test_a_record_of_an_older_release_takes_defaults_for_what_it_lacks(decide: Decide) -> None:
    raw = msgspec.json.decode(records.encode(make(decide)))
    del raw["state"]["verdict"], raw["place"], raw["platform"]
    assert records.decode(msgspec.json.encode(raw)).place == Place()
