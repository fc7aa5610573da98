"""Options of the driver `local`."""

from __future__ import annotations

import pytest

from corten.engine.localdriver import check_options, mount_options, needs_mount
from corten.errors import InvalidArgument


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"foo": "x"}, 'invalid option: "foo"'),
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "tmpfs"}, 'missing required option: "type"'),
        ({"o": "bind"}, 'missing required option: "device"'),
        ({"size": "1g"}, "quota size requested but no quota support"),
        ({"size": "much"}, "invalid size: 'much'"),
    ],
)
def test_wrong_options_are_refused_in_dockers_words(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_options(options)
    assert caught.value.text == text


def test_options_that_dockerd_takes_are_taken() -> None:
    for options in (None, {}, {"type": "none", "o": "bind", "device": "/x"}, {"size": "0"}):
        check_options(options)
    assert not needs_mount({"size": "0"})
    assert needs_mount({"type": "nfs", "device": ":/x"})


def test_words_of_mount_8_become_flags_and_the_rest_is_the_file_systems() -> None:
    assert mount_options("bind,ro,size=1m") == (4096 | 1, "size=1m")
    assert mount_options("ro,rw,noexec") == (8, "")
    assert mount_options("addr=10.0.0.1,vers=4") == (0, "addr=10.0.0.1,vers=4")
