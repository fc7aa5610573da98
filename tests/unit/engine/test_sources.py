"""Binds that show the engine's own data, and propagation that a mount does not have."""

from __future__ import annotations

import pytest

from corten.engine import mountspec, sources
from corten.engine.mountspec import parse_bind, parse_mount
from corten.errors import Internal, InvalidArgument
from corten.spec.docker import BindOptions, Mount


@pytest.mark.parametrize(("bind", "expected"), [("/:/x", "rslave"), ("/data/y:/x", "rslave"), ("/tmp:/x", "rprivate")])
def test_a_bind_that_shows_the_data_root_follows_its_mounts(bind: str, expected: str) -> None:
    assert mountspec.over_data_root([parse_bind(bind)], "/data")[0].propagation == expected


def test_a_propagation_that_would_keep_the_engines_mounts_is_refused() -> None:
    assert mountspec.over_data_root([parse_bind("/:/x:rshared")], "/data")[0].propagation == "rshared"
    with pytest.raises(InvalidArgument, match=r'daemon root: "/data", bind mount source: "/", propagation: "private"$'):
        mountspec.over_data_root([parse_bind("/:/x:private")], "/data")


def test_read_only_cannot_be_recursive_and_not() -> None:
    options = BindOptions(read_only_non_recursive=True, read_only_force_recursive=True)
    point = parse_mount(Mount(type="bind", source="/tmp", target="/x", read_only=True, bind_options=options))
    with pytest.raises(Internal, match=r"^mount options conflict: ReadOnlyNonRecursive && "):
        sources.prepare(point)


def test_a_mount_that_is_not_shared_yields_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_mount_table", lambda: [sources._MountPlace("/", ())])
    chosen = mountspec.over_data_root([parse_bind("/:/x")], "/data")[0]
    assert sources.prepare(chosen).propagation == "rprivate"
    with pytest.raises(Internal, match="not a shared or slave mount"):
        sources.prepare(parse_bind("/:/x:rslave"))
