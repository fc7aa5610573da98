"""Which owners the files of a bind or volume seem to have."""

from __future__ import annotations

import pytest

from corten.engine.idmapspec import mappings
from corten.errors import InvalidArgument


def test_groups_are_mapped_as_users_unless_something_else_is_said() -> None:
    row = {"containerID": 1000, "hostID": 0, "size": 1}
    assert mappings("uids=1000-0-1") == {"uidMappings": [row], "gidMappings": [row]}
    other = {"containerID": 5, "hostID": 6, "size": 7}
    more = {"containerID": 100, "hostID": 200, "size": 3}
    assert mappings("uids=1000-0-1;gids=5-6-7#100-200-3") == {"uidMappings": [row], "gidMappings": [other, more]}


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "uids", "uids=", "uids=1-2", "uids=1-2-0", "uids=-1-2-3", "uids=a-b-c", "uids=0-0-4294967296",
        "uids=4294967295-0-1", "uids=0-0-1;uids=0-0-1", "uids=0-0-2#1-5-1", "uids=0-0-2#5-1-1", "uids=0-0-1 ",
        "uids=" + "#".join(f"{n}-{n}-1" for n in range(341)), "ids=0-0-1", "uids=٣-0-1",
    ],
)  # fmt: skip
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid idmap"):
        mappings(text)
