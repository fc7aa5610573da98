"""Who reaches whom over networks and published ports, of Corten as of dockerd 26.1, and as whom.

The tables are what dockerd 26.1 does; what Corten does otherwise, on purpose, is OTHERWISE.  A row is what is asked, a
column who asks; a cell says whose address the server saw: `self` is the asker's own, `one` the gateway of that network,
`-` is no answer.  Behind a bar stands what is otherwise with udp.  A `.` is no question.
"""

from __future__ import annotations

import pytest

from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.reach import NO_ANSWER, Cell, town

KINDS = ("tcp", "udp")
V4 = """
                                  client  host  web    peer   other  plain  mate
web                               self    one   self   self   -      -      -
other                             self    two   -      -      self   -      -
plain                             -       bridge -     -      -      self   self
host                              self    self  self   self   self   self   self
client                            self    self  host   host   host   host   host
published                         self    self  one|-  one|-  one|-  one|-  one|-
published,_by_the_gateway_of_one  self    one   one    one    one|-  one|-  one|-
published,_by_loopback            .       one   .      .      .      .      .
loopback's                        -       -     -      -      -      -      -
loopback's,_by_loopback           .       two   .      .      .      .      .
"""
V6 = """
                                  client  host  web    peer   other
web                               self    one   self   self   -
other                             -       two   -      -      self
host                              self    self  self   self   self
client                            self    self  host   host   host
published                         self    self  one|-  one|-  one|-
published,_by_the_gateway_of_one  self    one   one    one    one|-
published,_by_loopback            .       one   .      .      .
"""
# dockerd lets in, for everybody, what is sent to a published port's address in the container, though it be published
# on 127.0.0.1 alone (moby#45610); here a neighbour reaches published ports where they are published
DIRECT = {
    Cell("client", target, kind, version): NO_ANSWER
    for target, version in (("web", 4), ("web", 6), ("other", 4))
    for kind in KINDS
}
# dockerd's proxy answers a datagram from an address that was not asked
HAIRPIN = {
    Cell(source, target, "udp", version): "gateway of one"
    for target, sources in (
        ("published", ("web", "peer", "other", "plain", "mate")),
        ("published, by the gateway of one", ("other", "plain", "mate")),
    )
    for source in sources
    for version in (4, 6)
    if version == 4 or source not in ("plain", "mate")
}
OTHERWISE = DIRECT | HAIRPIN


def cells(table: str, version: int) -> dict[Cell, str]:
    """The cells of a table; names are written whole."""
    head, *rows = (line.split() for line in table.strip().splitlines())
    words = {"self": "itself", "-": NO_ANSWER, "host": "host"}
    words |= {name: f"gateway of {name}" for name in ("one", "two", "bridge")}
    found = {}
    for target, *row in rows:
        for source, text in zip(head, row, strict=True):
            said = text.split("|")
            for kind, word in zip(KINDS, (said[0], said[-1]), strict=True):
                if word != ".":
                    found[Cell(source, target.replace("_", " "), kind, version)] = words[word]
    return found


EXPECTED = cells(V4, 4) | cells(V6, 6)


def test_what_is_otherwise_is_otherwise() -> None:
    assert not [str(cell) for cell, said in OTHERWISE.items() if EXPECTED[cell] == said]


@pytest.mark.timeout(300)
def test_corten_lets_the_same_places_reach_each_other_as_dockerd() -> None:
    """And when cortend is dead, the same."""
    expected = EXPECTED | OTHERWISE
    with CortenEngine() as engine, town(engine, engine.netns) as places:
        assert differences(places.measure(expected), expected) == []
        engine.kill9()
        assert differences(places.measure(expected), expected) == []
        engine.start()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tables_are_what_dockerd_does() -> None:
    args = ("--experimental", "--ip6tables")
    with Dockerd("26.1", args=args) as engine, town(engine, engine.netns) as places:
        assert differences(places.measure(EXPECTED), EXPECTED) == []


def differences(found: dict[Cell, str], expected: dict[Cell, str]) -> list[str]:
    """Each cell that is not as expected."""
    return [f"{cell}: {found[cell]}, expected {said}" for cell, said in expected.items() if found[cell] != said]
