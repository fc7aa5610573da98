"""Ids of a container and of the host."""

from __future__ import annotations

import pytest

from corten.core.owners import OVERFLOW, IdMap, IdRange
from corten.errors import InvalidArgument

PLAIN = IdMap((IdRange(0, 100000, 65536),), (IdRange(0, 100000, 65536),))
TWO = IdMap((IdRange(0, 5000, 10), IdRange(10, 9000, 5)), (IdRange(0, 7000, 3),))


def test_an_id_has_a_place_in_one_of_the_ranges() -> None:
    assert PLAIN.root == (100000, 100000)
    assert PLAIN.outside(1000, 50) == (101000, 100050)
    assert TWO.outside(9, 2) == (5009, 7002)
    assert TWO.outside(12, 0) == (9002, 7000)
    assert TWO.inside(9002, 7002) == (12, 2)


@pytest.mark.parametrize(("uid", "gid"), [(65536, 0), (0, 70000), (4294967294, 0)])
def test_an_id_beyond_the_ranges_is_refused_in_dockerds_words(uid: int, gid: int) -> None:
    with pytest.raises(InvalidArgument, match=f"^Container ID {max(uid, gid)} cannot be mapped to a host ID$"):
        PLAIN.outside(uid, gid)
    assert not PLAIN.has(uid, gid)
    assert PLAIN.has(65535, 65535)


def test_other_ids_of_the_host_are_nobodys_inside() -> None:
    assert PLAIN.inside(0, 165536) == (OVERFLOW, OVERFLOW)


def test_a_map_is_shown_and_written() -> None:
    assert PLAIN.text == "0:100000:65536"
    assert TWO.text == "0:5000:10,10:9000:5;0:7000:3"
    assert TWO.lines() == ("0 5000 10\n10 9000 5\n", "0 7000 3\n")
    assert PLAIN.mappings()["uidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 65536}]


def test_the_owners_of_a_mount_are_seen_as_ids_of_the_container() -> None:
    given = {key: [{"containerID": 40, "hostID": 8, "size": 4}] for key in ("uidMappings", "gidMappings")}
    assert PLAIN.composed(given)["uidMappings"] == [{"containerID": 40, "hostID": 100008, "size": 4}]
    split = IdMap(TWO.uids, TWO.uids).composed(given)["gidMappings"]
    assert [tuple(row.values()) for row in split] == [(40, 5008, 2), (42, 9000, 2)]
    with pytest.raises(InvalidArgument, match="the container has none of the ids"):
        TWO.composed(given)
