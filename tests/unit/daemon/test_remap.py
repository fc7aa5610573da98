"""`userns-remap`: whose ranges are meant, and what they must be.  Texts are dockerd 26.1's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corten.core.owners import IdMap, IdRange
from corten.daemon import remap
from corten.errors import CortenError, Internal

USERS = {"stone": 1500, "root": 0, "alone": 1501}
GROUPS = {"stone": 1500, "root": 0, "masons": 77}


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The users and groups that there are."""

    def user(name: str) -> Any:
        return SimpleNamespace(pw_name=name, pw_uid=USERS[name])

    numbers, of_groups = ({number: name for name, number in table.items()} for table in (USERS, GROUPS))
    users = SimpleNamespace(getpwnam=user, getpwuid=lambda uid: user(numbers[uid]))
    groups = SimpleNamespace(getgrnam=GROUPS.__getitem__, getgrgid=of_groups.__getitem__)
    monkeypatch.setattr(remap, "pwd", users)
    monkeypatch.setattr(remap, "grp", groups)


def load(folder: Path, value: str, text: str = "stone:100000:65536\n", groups: str | None = None) -> IdMap | None:
    for name, lines in (("subuid", text), ("subgid", text if groups is None else groups)):
        (folder / name).write_text(lines)
    return remap.load(value, subuid=str(folder / "subuid"), subgid=str(folder / "subgid"))


@pytest.mark.parametrize(
    "value", ["stone", "1500", "stone:stone", "stone:masons", "stone:77", "1500:1500", "1500:masons"]
)
def test_a_user_is_named_or_numbered_and_has_his_ranges(tmp_path: Path, value: str) -> None:
    rows = (IdRange(0, 100000, 65536),)
    assert load(tmp_path, value) == IdMap(rows, rows)


@pytest.mark.parametrize("value", ["", "root", "0", "0:0", "root:stone"])
def test_nothing_and_root_map_nobody(tmp_path: Path, value: str) -> None:
    assert load(tmp_path, value) is None


def test_lines_of_the_number_go_before_those_of_the_name_and_follow_each_other(tmp_path: Path) -> None:
    text = "# ranges\n\nstone:1000000:9\n1500:200000:10\nother:5:5\n1500:300000:20\n"
    rows = (IdRange(0, 200000, 10), IdRange(10, 300000, 20))
    assert load(tmp_path, "stone", text) == IdMap(rows, rows)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a:b:c", 'Invalid user/group specification in --userns-remap: "a:b:c"'),
        ("no", 'Error during uid lookup for "no": getent unable to find entry "no" in passwd database'),
        ("no:stone", 'Error during uid lookup for "no": getent unable to find entry "no" in passwd database'),
        ("77", 'Uid 77 has no entry in /etc/passwd: getent unable to find entry "77" in passwd database'),
        ("alone", 'Error during gid lookup for "alone": getent unable to find entry "alone" in group database'),
        ("1501", 'Gid 1501 has no entry in /etc/group: getent unable to find entry "1501" in group database'),
        ("stone:no", 'Error during groupname lookup for "no": getent unable to find entry "no" in group database'),
    ],
)
def test_users_and_groups_that_are_not_there_are_named(tmp_path: Path, value: str, text: str) -> None:
    with pytest.raises(CortenError) as caught:
        load(tmp_path, value)
    assert caught.value.text == text


PARSING = "String to int conversion failed during subuid/gid parsing of"


@pytest.mark.parametrize(
    ("text", "groups", "said"),
    [
        ("", None, 'no subuid ranges found for user "stone"'),
        ("stone:100000:9\n", "", 'no subgid ranges found for user "stone"'),
        ("stone:abc:9\n", None, f'{PARSING} {{folder}}/subuid: strconv.Atoi: parsing "abc": invalid syntax'),
        ("stone:1\n", None, "Cannot parse subuid/gid information: Format not correct for {folder}/subuid file"),
        ("stone:0:9\n", None, "{folder}/subuid: stone:0:9: this gives containers the host's root"),
        ("stone:4294967290:9\n", None, "{folder}/subuid: stone:4294967290:9: beyond the ids there are"),
        ("stone:5:0\n", None, "{folder}/subuid: stone:5:0: beyond the ids there are"),
        ("stone:9:1\n" * 341, None, "{folder}/subuid: more than 340 ranges of stone"),
    ],
)
def test_ranges_that_cannot_be_are_refused(tmp_path: Path, text: str, groups: str | None, said: str) -> None:
    with pytest.raises(CortenError) as caught:
        load(tmp_path, "stone", text, groups)
    assert caught.value.text == f"Can't create ID mappings: {said.format(folder=tmp_path)}"


def test_default_makes_its_user_and_says_when_there_is_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remap, "shutil", SimpleNamespace(which=lambda name, path=None: None))
    with pytest.raises(Internal) as caught:
        load(tmp_path, "default")
    text = 'Error during "dockremap" user creation: cannot add user; no useradd/adduser binary found'
    assert caught.value.text == text
