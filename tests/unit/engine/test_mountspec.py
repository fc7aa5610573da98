"""Docker's three notations of mounts."""

from __future__ import annotations

import pytest

from corten.engine.mountspec import parse_all, parse_bind, parse_mount, parse_tmpfs, tmpfs_options
from corten.errors import CortenError, Internal, InvalidArgument
from corten.spec.docker import BindOptions, HostConfig, Mount, TmpfsOptions


def test_a_bind_has_source_target_and_mode() -> None:
    point = parse_bind("/tmp/../tmp:/x/:ro,rslave")
    assert (point.source, point.target, point.read_only) == ("/tmp", "/x", True)
    assert (point.propagation, point.explicit_propagation, point.mode) == ("rslave", True, "ro,rslave")
    assert parse_bind("/tmp:/x").propagation == "rprivate"


WRONG_BINDS: list[tuple[str, type[CortenError], str]] = [
    (
        "x",
        Internal,
        "invalid volume specification: 'x': invalid mount config for type \"volume\": invalid mount path: 'x' mount "
        "path must be absolute",
    ),
    ("/a:/b:foo", Internal, "invalid mode: foo"),
    ("/a:/b:ro,rw", Internal, "invalid mode: ro,rw"),
    ("a:b:c:d", Internal, "invalid volume specification: 'a:b:c:d'"),
    ("/a:rw", Internal, "invalid volume specification: '/a:rw'"),
    (
        "/a:/",
        Internal,
        "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: "
        "destination can't be '/'",
    ),
    (
        "./a:/b",
        InvalidArgument,
        'create ./a: "./a" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
        "allowed. If you intended to pass a host directory, use absolute path",
    ),
]


@pytest.mark.parametrize(("raw", "kind", "text"), WRONG_BINDS, ids=[row[0] for row in WRONG_BINDS])
def test_wrong_binds_are_refused_in_dockers_words(raw: str, kind: type[CortenError], text: str) -> None:
    with pytest.raises(kind) as caught:
        parse_bind(raw)
    assert caught.value.text == text


WRONG_MOUNTS: list[tuple[Mount, str]] = [
    (Mount(type="bind", target="/x"), 'invalid mount config for type "bind": field Source must not be empty'),
    (Mount(type="bind", source="/tmp"), 'invalid mount config for type "bind": field Target must not be empty'),
    (
        Mount(type="bind", source="/nonexistent", target="/x"),
        'invalid mount config for type "bind": bind source path does not exist: /nonexistent',
    ),
    (Mount(type="foo", source="/tmp", target="/x"), 'invalid mount config for type "foo": mount type unknown'),
    (
        Mount(type="tmpfs", source="/tmp", target="/x"),
        'invalid mount config for type "tmpfs": field Source must not be specified',
    ),
    (
        Mount(type="bind", source="/tmp", target="/x", bind_options=BindOptions(propagation="foo")),
        'invalid mount config for type "bind": invalid propagation mode: foo',
    ),
]


@pytest.mark.parametrize(("mount", "text"), WRONG_MOUNTS, ids=[row[1][-30:] for row in WRONG_MOUNTS])
def test_wrong_mounts_are_refused_in_dockers_words(mount: Mount, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_mount(mount)
    assert caught.value.text == text


def test_tmpfs_options_of_a_mount_become_words() -> None:
    options = TmpfsOptions(size_bytes=1 << 20, mode=0o700, options=[["exec"]])
    point = parse_mount(Mount(type="tmpfs", target="/q", read_only=True, tmpfs_options=options))
    assert point.data == "ro,mode=700,size=1m,exec"


def test_a_later_tmpfs_word_beats_an_earlier_one() -> None:
    assert tmpfs_options("exec,size=1m,size=2m,noexec,mode=700") == [
        "nosuid", "nodev", "rprivate", "size=2m", "noexec", "mode=700",
    ]  # fmt: skip


@pytest.mark.parametrize("data", ["x", "size", "foo=1"])
def test_an_unknown_tmpfs_word_is_refused(data: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid tmpfs option"):
        tmpfs_options(data)


def test_two_mounts_on_one_target_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"^Duplicate mount point: /x$"):
        parse_all(HostConfig(binds=["/tmp:/x", "/etc:/x/"]))
    with pytest.raises(InvalidArgument, match=r"^Duplicate mount point: /x$"):
        parse_all(HostConfig(binds=["/tmp:/x"], tmpfs={"/x": ""}))


def test_shallow_targets_come_first() -> None:
    points = parse_all(HostConfig(binds=["/tmp:/a/b/c", "/etc:/a"], tmpfs={"/a/b": ""}))
    assert [point.target for point in points] == ["/a", "/a/b", "/a/b/c"]


def test_a_tmpfs_needs_an_absolute_target() -> None:
    with pytest.raises(InvalidArgument, match="mount path must be absolute"):
        parse_tmpfs("x", "")
