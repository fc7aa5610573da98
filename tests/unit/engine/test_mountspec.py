"""Docker's three notations of mounts."""

from __future__ import annotations

import pytest

from corten.engine.mountspec import (
    borrow,
    is_local,
    parse_all,
    parse_bind,
    parse_mount,
    parse_tmpfs,
    parse_volumes_from,
    tmpfs_options,
)
from corten.errors import CortenError, Internal, InvalidArgument
from corten.spec.docker import BindOptions, DriverConfig, HostConfig, ImageOptions, Mount, TmpfsOptions, VolumeOptions


def test_a_bind_has_source_target_and_mode() -> None:
    point = parse_bind("/tmp/../tmp:/x/:ro,rslave")
    assert (point.source, point.target, point.read_only) == ("/tmp", "/x", True)
    assert (point.propagation, point.explicit_propagation, point.mode) == ("rslave", True, "ro,rslave")
    assert parse_bind("/tmp:/x").propagation == "rprivate"


def test_two_slashes_are_one() -> None:
    point = parse_bind("//tmp//a:////x/../y")
    assert (point.source, point.target) == ("/tmp/a", "/y")
    assert parse_mount(Mount(type="bind", source="//tmp", target="//x")).target == "/x"
    assert [parse_bind("//x").target, parse_tmpfs("//x", "").target] == ["/x", "/x"]
    with pytest.raises(InvalidArgument):
        parse_tmpfs("///..", "")


def test_a_name_is_a_volume() -> None:
    point = parse_bind("data:/x/:ro")
    assert (point.kind, point.name, point.target, point.read_only, point.mode) == ("volume", "data", "/x", True, "ro")
    assert (point.copies, point.is_anonymous, point.driver) == (True, False, "local")
    assert not parse_bind("data:/x:nocopy").copies
    assert parse_bind("data:/x").mode == "z"
    assert parse_bind("data:/x", "other").driver == "other"


def test_a_target_alone_is_an_anonymous_volume() -> None:
    first, second = parse_bind("/x"), parse_bind("/x")
    assert first.is_anonymous
    assert first.name != second.name
    assert len(first.name) == 64


def test_a_mount_of_a_volume_has_all_its_options() -> None:
    options = VolumeOptions(
        no_copy=True, labels={"a": "b"}, subpath="s/t", driver_config=DriverConfig(options={"type": "tmpfs"})
    )
    point = parse_mount(Mount(type="volume", source="data", target="/x", read_only=True, volume_options=options))
    assert (point.name, point.copies, point.subpath, point.labels) == ("data", False, "s/t", {"a": "b"})
    assert (point.driver, point.driver_options, point.read_only) == ("local", {"type": "tmpfs"}, True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/b", True), ("a/../b", True), (".", True), ("", False), ("/a", False), ("..", False), ("a/../../b", False)],
)
def test_a_subpath_stays_below(path: str, expected: bool) -> None:
    assert is_local(path) is expected


def test_volumes_from_yield_to_binds_and_are_not_copied_up_again() -> None:
    lent = parse_all(HostConfig(binds=["data:/d", "/tmp:/t"], tmpfs={"/q": ""}), volumes=["/anonymous"])
    borrowed = borrow(lent, read_only=True)
    points = parse_all(HostConfig(binds=["own:/d"]), borrowed=borrowed, volumes=["/anonymous", "/t"])
    assert {(point.target, point.name or point.source, point.read_only, point.copies) for point in points} == {
        ("/d", "own", False, True),
        ("/t", "/tmp", True, False),
        ("/anonymous", next(one.name for one in lent if one.is_anonymous), True, False),
    }


def test_a_mount_of_an_image_is_read_only() -> None:
    point = parse_mount(Mount(type="image", source="busybox", target="/x", image_options=ImageOptions(subpath="a/b")))
    assert (point.kind, point.name, point.read_only, point.subpath) == ("image", "busybox", True, "a/b")
    for wrong in (
        Mount(type="image", target="/x"),
        Mount(type="image", source="a", target="/x", bind_options=BindOptions()),
    ):
        with pytest.raises(InvalidArgument, match=r"^invalid mount config for type .image."):
            parse_mount(wrong)


def test_volumes_of_a_container_are_bounded() -> None:
    with pytest.raises(InvalidArgument, match=r"^more than 512 volumes$"):
        parse_all(HostConfig(), volumes=(f"/{number}" for number in range(100_000)))
    assert len(parse_all(HostConfig(), volumes=["/a", "/a/", "a", "/b/../a"])) == 1


def test_modes_of_volumes_from() -> None:
    assert parse_volumes_from("a") == ("a", False)
    assert parse_volumes_from("a:ro,z") == ("a", True)
    for text in ("a:nope", "a:rshared", "a:nocopy"):
        with pytest.raises(InvalidArgument, match=f"^invalid mode: {text[2:]}$"):
            parse_volumes_from(text)


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
        "v:/b:shared",
        Internal,
        "invalid volume specification: 'v:/b:shared': invalid mount config for type \"volume\": field BindOptions must "
        "not be specified",
    ),
    (
        "v:/b",
        InvalidArgument,
        "create v: volume name is too short, names should be at least two alphanumeric characters",
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
        Mount(type="volume", target="/x", read_only=True),
        'invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes',
    ),
    (
        Mount(type="volume", source="ab", target="/x", volume_options=VolumeOptions(subpath="../x")),
        'invalid mount config for type "volume": subpath must be a relative path within the volume',
    ),
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
