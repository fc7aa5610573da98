"""Mounts of a configuration beside runc: every option word that it lists, and what a container's mountinfo says of it.

Both run in a mount namespace of their own, in which `source` is a tmpfs with another one, `noexec`, below it, and in
each a file of 5:6.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from corten.launch import options
from support import paths, peers, runtimes
from support.runtimes import Bundle, Runtime

OURS = paths.COMMANDS / "corten-runtime"
PREPARE = """
mount -t tmpfs src "$1"
mkdir "$1/sub"
mount -t tmpfs -o noexec sub "$1/sub"
touch "$1/file" "$1/sub/file"
chown 5:6 "$1/file" "$1/sub/file"
eval "$BEFORE"
shift
exec "$@"
"""
PRIVATE = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", PREPARE, "sh")

# words that runc 1.1 cannot do, or passes over in silence, by kind of mount
RUNC_FAILS = {
    ("tmpfs", "defaults"), ("tmpfs", "bind"), ("tmpfs", "rbind"), ("bind", "ratime"), ("rbind", "ratime"),
    ("bind", "rnostrictatime"), ("rbind", "rnostrictatime"),
    *[(kind, "remount") for kind in ("tmpfs", "bind", "rbind")],
}  # fmt: skip
# of a new mount, which may have mounts below it later: the specification makes no difference, runc has it for binds
RUNC_PASSES_OVER = {
    "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnosuid", "rnosymfollow", "rro", "rstrictatime",
}  # fmt: skip
WE_REFUSE = {("bind", "tmpcopyup"), ("rbind", "tmpcopyup")}


def mount(destination: str, type: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


class Side:
    """One runtime with a bundle; `mountinfo` is what the container says of mounts below /m."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.source = folder.parent / "source"
        self.root = "rootfs"

    def bundle(self, *args: str, mounts: Sequence[dict[str, Any]], userns: Sequence[dict[str, int]] = ()) -> Bundle:
        """With a user namespace that has the mapping `userns`, for both kinds of ids, unless it is empty."""
        bundle = runtimes.bundle(*args, folder=self.folder / "bundle")
        (bundle.path / "rootfs/m").mkdir(exist_ok=True)
        if not (bundle.path / "rootfs/bin/stat").exists():
            (bundle.path / "rootfs/bin/stat").symlink_to("busybox")
        bundle.config["root"] = {"path": self.root, "readonly": False}
        bundle.config["mounts"] += mounts
        if userns:
            for entry in mounts:  # in a directory of the host's root it may make nothing
                (bundle.path / "rootfs" / entry["destination"].lstrip("/")).mkdir(exist_ok=True)
            bundle.config["linux"]["namespaces"].append({"type": "user"})
            bundle.config["linux"].update(uidMappings=userns, gidMappings=userns)
        return bundle.save()

    def run(
        self,
        *mounts: dict[str, Any],
        args: Sequence[str] = ("cat", "/proc/self/mountinfo"),
        userns: Sequence[dict[str, int]] = (),
        before: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """`before` is shell that goes first: "$1" is the source, "$ROOTFS" the root filesystem."""
        bundle = self.bundle(*args, mounts=mounts, userns=userns)
        tools = peers.tree("bookworm")
        environment = {
            **os.environ,
            "BEFORE": before,
            "ROOTFS": str(bundle.path / "rootfs"),
            "PATH": f"{os.environ['PATH']}:/sbin:{tools.search_path}",
            "LD_LIBRARY_PATH": tools.libraries,
        }
        words = [str(self.program), "--root", str(self.folder / "root"), "run", "-b", str(bundle.path), "C"]
        argv = [*PRIVATE, str(self.source), *words]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False, env=environment
        )

    def mountinfo(self, *mounts: dict[str, Any], before: str = "", also: Sequence[str] = ()) -> dict[str, str]:
        """Mount point → root, options, type, source, file system's options (proc(5)), below /m and on `also`.

        Peer groups have no numbers, and the root filesystem's path is ROOTFS.
        """
        done = self.run(*mounts, before=before)
        assert done.returncode == 0, done.stderr
        found = {}
        fs_root = str(self.folder / "bundle/rootfs")
        for line in done.stdout.splitlines():
            mine, _, fs = line.partition(" - ")
            fields = mine.split()
            if fields[4].startswith("/m") or fields[4] in also:
                tags = [re.sub(r"\d+", "N", tag) for tag in fields[6:]]
                found[fields[4]] = " ".join(
                    [fields[3].replace(fs_root, "ROOTFS"), fields[5], *tags, "-", fs.replace(fs_root, "ROOTFS")]
                )
        return found

    def error(self, *mounts: dict[str, Any]) -> str:
        done = self.run(*mounts)
        assert done.returncode != 0, done.stdout
        return done.stderr


class Beside:
    """Both runtimes."""

    def __init__(self, folder: Path) -> None:
        (folder / "source").mkdir(parents=True)
        self.source = str(folder / "source")
        self.ours = Side(OURS, folder / "ours")
        self.theirs = Side(peers.binary("runc"), folder / "theirs")

    def same(self, *mounts: dict[str, Any]) -> dict[str, str]:
        """The mounts below /m, the same with both."""
        ours = self.ours.mountinfo(*mounts)
        assert ours == self.theirs.mountinfo(*mounts)
        return ours


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    with runtimes.folder_of_containers("mounts") as folder:
        yield Beside(folder)


def words_of_runc() -> list[str]:
    listed: list[str] = json.loads(subprocess.check_output([peers.binary("runc"), "features"]))["mountOptions"]
    return sorted({*listed, *options.SUPERBLOCK})


def with_word(beside: Beside, kind: str, word: str) -> dict[str, Any]:
    if kind == "tmpfs":
        return mount(f"/m/{kind}.{word}", "tmpfs", "t", word, "size=64k")
    return mount(f"/m/{kind}.{word}", "bind", beside.source, kind, word)


@pytest.mark.parametrize("kind", ["tmpfs", "bind", "rbind"])
def test_every_word_that_runc_lists_makes_the_mount_that_runc_makes(beside: Beside, kind: str) -> None:
    words = [word for word in words_of_runc() if (kind, word) not in RUNC_FAILS | WE_REFUSE]
    if kind == "tmpfs":
        words = [word for word in words if word not in RUNC_PASSES_OVER]
    found = beside.same(*[with_word(beside, kind, word) for word in words])
    assert len(found) >= len(words) >= 50


def test_recursive_word_on_a_new_mount_holds_for_it(beside: Beside) -> None:
    found = beside.ours.mountinfo(*[with_word(beside, "tmpfs", word) for word in sorted(RUNC_PASSES_OVER)])
    plain = beside.ours.mountinfo(*[with_word(beside, "tmpfs", word[1:]) for word in sorted(RUNC_PASSES_OVER)])
    assert list(found.values()) == list(plain.values())


FULL = "ro,nosuid,nodev,noexec,nosymfollow,noatime,nodiratime"
TREE = {
    "bare": 'mkdir "$1/sub/deep"; mount -t tmpfs deep "$1/sub/deep"; mount -o remount,bind,exec "$1/sub"; '
    'chmod 755 "$1/sub/deep"',
    "full": f'mkdir "$1/sub/deep"; mount -t tmpfs -o {FULL} deep "$1/sub/deep"; mount -o remount,bind,{FULL} "$1/sub"; '
    f'mount -o remount,bind,{FULL} "$1"',
}
# what mountinfo shows of a word; None: the flag of the same name is not there
SHOWN = {
    **{word: word for word in ("ro", "rw", "nosuid", "nodev", "noexec", "nosymfollow", "noatime", "nodiratime")},
    **dict.fromkeys(("suid", "dev", "exec", "symfollow", "diratime", "strictatime", "norelatime")),
    **dict.fromkeys(("atime", "relatime", "nostrictatime"), "relatime"),
}


@pytest.mark.parametrize("tree", TREE)
def test_recursive_words_reach_every_mount_of_a_tree(beside: Beside, tree: str) -> None:
    words = [f"r{word}" for word in options.ATTRIBUTES]
    assert {word[1:] for word in words} == set(SHOWN)
    mounts = {word: with_word(beside, "rbind", word) for word in words}
    ours = beside.ours.mountinfo(*mounts.values(), before=TREE[tree])
    for word in words:
        tree_of = [ours[f"/m/rbind.{word}{below}"].split()[1].split(",") for below in ("", "/sub", "/sub/deep")]
        shown = SHOWN[word[1:]]
        gone = {"rstrictatime": {"relatime", "noatime"}, "rnorelatime": set()}.get(word, {f"no{word[1:]}"})
        for flags in tree_of:
            assert shown in flags if shown else not gone & {*flags}, (word, tree_of)
    known = [mount for word, mount in mounts.items() if ("rbind", word) not in RUNC_FAILS]
    assert len(known) == 16
    theirs = beside.theirs.mountinfo(*known, before=TREE[tree])
    assert {place: ours[place] for place in theirs} == theirs


def test_attributes_of_the_source_stay_unless_a_word_takes_them_back(beside: Beside) -> None:
    words = ("ro", "nosuid", "noatime", "rw", "suid", "exec")
    mounts = [with_word(beside, "bind", word) for word in words]
    ours = beside.ours.mountinfo(*mounts, before=TREE["full"])
    theirs = beside.theirs.mountinfo(*mounts, before=TREE["full"])
    full = set(FULL.split(","))

    def left(found: dict[str, str], word: str) -> set[str]:
        return set(found[f"/m/bind.{word}"].split()[1].split(","))

    for word in words[:3]:
        assert left(ours, word) == full
        assert left(theirs, word) < full | {"rw"}  # those that are not named are gone
    for word, taken in (("rw", "ro"), ("suid", "nosuid"), ("exec", "noexec")):
        assert left(ours, word) - {"rw"} == full - {taken}
        assert left(theirs, word) == full  # 1.1 takes none back


def test_words_that_runc_fails_on_work_or_are_refused(beside: Beside) -> None:
    done = beside.ours.mountinfo(
        with_word(beside, "tmpfs", "defaults"), with_word(beside, "bind", "ratime"), with_word(beside, "bind", "rnodev")
    )
    assert done["/m/tmpfs.defaults"] == "/ rw,relatime - tmpfs t rw,size=64k"
    assert done["/m/bind.ratime"] == "/ rw,relatime - tmpfs src rw"
    assert "tmpcopyup is for tmpfs alone" in beside.ours.error(with_word(beside, "bind", "tmpcopyup"))
    bind = mount("/m/x", "bind", beside.source, "size=1m")
    assert "bind mounts cannot have file system options (size=1m)" in beside.ours.error(bind)


@pytest.mark.parametrize("where", ["/proc/sys", "/proc/driver"])
def test_a_procfs_inside_of_proc_is_that_of_runc(beside: Beside, where: str) -> None:
    found = [side.mountinfo(mount(where, "proc", "proc"), also=(where,)) for side in (beside.ours, beside.theirs)]
    assert found[0] == found[1]


class TestLongOptions:
    """fsconfig(2) takes 255 bytes; mount(2) takes a page, and so do we, and runc."""

    def layers(self, beside: Beside, count: int) -> list[str]:
        """Directories with long names, each with a file of its own."""
        found = [beside.ours.folder.parent / f"layer-{index}-{'x' * 150}" for index in range(count)]
        for index, path in enumerate(found):
            path.mkdir(exist_ok=True)
            (path / f"of-{index}").touch()
        return [str(path) for path in found]

    @pytest.mark.parametrize("userns", [False, True], ids=["root", "user namespace"])
    def test_an_overlay_of_many_layers_is_that_of_runc(self, beside: Beside, userns: bool) -> None:
        entry = mount("/m", "overlay", "overlay", f"lowerdir={':'.join(self.layers(beside, 12))}", "nodev", "noatime")
        seen = []
        for side in (beside.ours, beside.theirs):
            show = ("sh", "-c", "ls /m; grep ' /m ' /proc/self/mounts")
            done = side.run(entry, args=show, userns=MAPPING if userns else ())
            assert done.returncode == 0, done.stderr
            seen.append(done.stdout)
        assert seen[0] == seen[1]
        assert seen[0].split()[:2] == ["of-0", "of-1"]

    def test_a_long_source_is_that_of_runc(self, beside: Beside) -> None:
        found = beside.same(mount("/m/x", "tmpfs", "s" * 300, "size=64k", "ro", "sync", "nosuid"))
        assert found["/m/x"] == f"/ ro,nosuid,relatime - tmpfs {'s' * 300} rw,sync,size=64k"

    def test_nothing_of_it_stays_at_the_root(self, beside: Beside) -> None:
        found = beside.ours.mountinfo(mount("/m/x", "tmpfs", "s" * 300, "size=64k"), also=("/",))
        assert set(found) == {"/", "/m/x"}
        assert "tmpfs" not in found["/"]

    def test_more_than_a_page_is_refused_in_words(self, beside: Beside) -> None:
        error = beside.ours.error(mount("/m", "overlay", "overlay", f"lowerdir={':'.join(self.layers(beside, 24))}"))
        assert "mount overlay on /m: its source or its options are longer than a page" in error

    def test_an_error_of_the_file_system_is_told(self, beside: Beside) -> None:
        error = beside.ours.error(mount("/m", "overlay", "overlay", f"lowerdir=/nowhere/{'x' * 300}"))
        assert "mount overlay on /m: no such file or directory (step " in error


class TestRemount:
    """A mount that an earlier entry made, changed."""

    @pytest.mark.parametrize(
        ("before", "words"),
        [
            ([], ["ro"]),
            ([], ["size=128k", "noexec"]),
            ([], ["sync"]),
            (["nosuid", "nodev"], []),
            (["noatime"], ["nodiratime"]),
            ([], ["strictatime"]),
            (["noatime", "nodiratime"], ["nosuid"]),
        ],
        ids=str,
    )
    def test_is_that_of_runc(self, beside: Beside, before: list[str], words: list[str]) -> None:
        found = beside.same(
            mount("/m/x", "tmpfs", "t", "size=64k", *before), mount("/m/x", "tmpfs", "t", "remount", *words)
        )
        assert len(found) == 1

    def test_of_a_bind_leaves_the_mounts_below(self, beside: Beside) -> None:
        again = mount("/m/x", "bind", beside.source, "bind", "remount", "ro")
        found = beside.same(mount("/m/x", "bind", beside.source, "rbind", "nodev"), again)
        assert found == {
            "/m/x": "/ ro,relatime - tmpfs src rw",
            "/m/x/sub": "/ rw,noexec,relatime - tmpfs sub rw",
        }

    def test_never_changes_a_file_system_of_the_host(self, beside: Beside) -> None:
        bind = mount("/m/x", "bind", beside.source, "rbind")
        text = beside.ours.error(bind, mount("/m/x", "none", "t", "remount", "size=1m"))
        assert "size=1m would change a file system that others use, too" in text
        found = beside.ours.mountinfo(bind, mount("/m/x", "none", "t", "remount", "ro"))
        assert found["/m/x"] == "/ ro,relatime - tmpfs src rw"
        # runc makes the file system itself read-only, for everybody who has it
        assert beside.theirs.mountinfo(bind, mount("/m/x", "none", "t", "remount", "ro"))["/m/x"].endswith("src ro")

    def test_of_what_is_no_mount_is_an_error(self, beside: Beside) -> None:
        assert "remount of /m: no mount before it goes there" in beside.ours.error(
            mount("/m", "tmpfs", "t", "remount", "ro")
        )
        assert "invalid argument" in beside.theirs.error(mount("/m", "tmpfs", "t", "remount", "ro"))


@pytest.mark.parametrize("words", [["ro"], ["nosuid", "noexec"]], ids=str)
def test_type_cgroup2_mounts_the_version_2_hierarchy(beside: Beside, words: list[str]) -> None:
    found = beside.same(mount("/m/x", "cgroup2", "cgroup2", *words))
    assert found["/m/x"].startswith(f"/ {'ro' if words == ['ro'] else 'rw'}")


MAPPING = [{"containerID": 0, "hostID": 100000, "size": 65536}]
OTHER = [{"containerID": 0, "hostID": 300000, "size": 65536}]
BOTH = {"uidMappings": MAPPING, "gidMappings": OTHER}


class TestIdMapped:
    """Files of a bind whose owners the container sees through a mapping; runc 1.1 has none of it."""

    @pytest.fixture
    def disk(self) -> Iterator[str]:
        """A directory on disk with files of 5:6."""
        made = paths.scratch("idmapped")
        (made / "sub").mkdir()
        for path in (made / "file", made / "sub/file"):
            path.touch()
            os.chown(path, 5, 6)
        yield str(made)
        shutil.rmtree(made)

    def owners(self, beside: Beside, *mounts: dict[str, Any], userns: Sequence[dict[str, int]] = ()) -> dict[str, str]:
        """Path → uid:gid, as the container sees them."""
        script = "stat -c '%n %u:%g' /m/*/file /m/*/sub/file"
        done = beside.ours.run(*mounts, args=("sh", "-c", script), userns=userns)
        assert (done.returncode, done.stderr) == (0, "")
        rows = [line.split() for line in done.stdout.splitlines()]
        return {path: owner for path, owner in rows}  # noqa: C416 - dict() does not see pairs in lists

    def test_owner_is_the_mapped_one_on_disk_and_on_tmpfs(self, beside: Beside, disk: str) -> None:
        found = self.owners(
            beside,
            mount("/m/disk", "bind", disk, "rbind", "idmap") | BOTH,
            mount("/m/plain", "bind", disk, "rbind"),
            mount("/m/tmpfs", "bind", beside.source, "rbind", "idmap") | BOTH,
            mount("/m/all", "bind", beside.source, "rbind", "ridmap") | BOTH,
            mount("/m/silent", "bind", disk, "bind") | BOTH,
        )
        mapped, plain = "100005:300006", "5:6"
        assert found == {
            "/m/disk/file": mapped, "/m/disk/sub/file": mapped,  # one file system
            "/m/plain/file": plain, "/m/plain/sub/file": plain,
            "/m/tmpfs/file": mapped, "/m/tmpfs/sub/file": plain,  # a mount below: for ridmap
            "/m/all/file": mapped, "/m/all/sub/file": mapped,
            "/m/silent/file": mapped, "/m/silent/sub/file": mapped,
        }  # fmt: skip

    def test_without_a_mapping_of_its_own_it_has_the_containers(self, beside: Beside, disk: str) -> None:
        mapped = mount("/m/mapped", "bind", disk, "rbind", "idmap")
        found = self.owners(beside, mapped, mount("/m/plain", "bind", disk, "rbind"), userns=MAPPING)
        assert (found["/m/mapped/file"], found["/m/plain/file"]) == ("5:6", "65534:65534")

    def test_a_file_that_the_container_makes_belongs_to_the_user_of_the_disk(self, beside: Beside, disk: str) -> None:
        mapped = mount("/m/mapped", "bind", disk, "rbind", "idmap")
        done = beside.ours.run(mapped, args=("sh", "-c", "echo x > /m/mapped/new"), userns=MAPPING)
        assert (done.returncode, done.stderr) == (0, "")
        made = Path(disk, "new").stat()
        assert (made.st_uid, made.st_gid) == (0, 0)

    def test_a_joined_user_namespace_gives_its_mapping(self, beside: Beside, disk: str) -> None:
        runtime = Runtime(OURS, beside.ours.folder / "root")
        first = beside.ours.bundle("sleep", "1000", mounts=(), userns=MAPPING)
        runtime.detached("run", "--detach", "-b", str(first.path), "first")
        try:
            mapped = mount("/m/x", "bind", disk, "rbind", "idmap")
            second = beside.ours.bundle("stat", "-c", "%u:%g", "/m/x/file", mounts=[mapped])
            (second.path / "rootfs/m/x").mkdir(exist_ok=True)
            path = f"/proc/{runtime.state('first')['pid']}/ns/user"
            second.config["linux"]["namespaces"].append({"type": "user", "path": path})
            done = runtime("run", "-b", str(second.save().path), "second")
            assert (done.stdout, done.stderr) == ("5:6\n", "")
        finally:
            runtime("delete", "--force", "first")

    def test_a_file_system_that_cannot_is_an_error_that_says_so(self, beside: Beside) -> None:
        done = beside.ours.run(mount("/m/x", "bind", "/sys", "bind", "idmap") | BOTH)
        assert "mount /sys on /m/x: failed to set MOUNT_ATTR_IDMAP on /sys: invalid argument" in done.stderr

    def test_a_mapping_that_the_kernel_refuses_leaves_nobody(self, beside: Beside, disk: str) -> None:
        twice = {"uidMappings": [*MAPPING, *MAPPING], "gidMappings": MAPPING}
        done = beside.ours.run(mount("/m/x", "bind", disk, "bind", "idmap") | twice)
        assert "user namespace of uid 0 100000 65536, 0 100000 65536" in done.stderr
        assert "invalid argument" in done.stderr
        own = os.readlink("/proc/self/ns/user")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # those that end meanwhile
                if os.readlink(f"/proc/{pid}/ns/user") != own:
                    assert "corten-launch" not in Path(f"/proc/{pid}/comm").read_text()


IMAGE = (
    'truncate -s 320M "$1/image"; mkfs.{0} -q "$1/image" > "$1/log"; mkdir "$1/image.d"; '
    'mount -o loop "$1/image" "$1/image.d"; '
    'cp -a "$ROOTFS/." "$1/image.d"; mount --bind "$1/image.d" "$ROOTFS"'
)
READ_ONLY_IMAGE = 'mount -o loop -t {0} "$1/image" "$ROOTFS"'
ROOTS = {
    "a tmpfs": 'cp -a "$ROOTFS" "$1/copy"; mount -t tmpfs root "$ROOTFS"; cp -a "$1/copy/." "$ROOTFS"',
    "a ramfs": 'cp -a "$ROOTFS" "$1/copy"; mount -t ramfs root "$ROOTFS"; cp -a "$1/copy/." "$ROOTFS"',
    "an overlay": 'mkdir "$1/up" "$1/work"; cd "$1"; '
    'mount -t overlay -o "lowerdir=$ROOTFS,upperdir=up,workdir=work" root "$ROOTFS"',
    "an image of ext4": IMAGE.format("ext4"),
    "an image of xfs": IMAGE.format("xfs"),
    "an image of btrfs": IMAGE.format("btrfs"),
    "an image of squashfs": 'mksquashfs "$ROOTFS" "$1/image" -quiet -no-progress; '
    f"{READ_ONLY_IMAGE.format('squashfs')}",
    "an image of erofs": f'mkfs.erofs "$1/image" "$ROOTFS" > "$1/log"; {READ_ONLY_IMAGE.format("erofs")}',
    "a file system of a process (fuse)": 'mkdir "$1/up" "$1/work"; '
    'fuse-overlayfs -o "lowerdir=$ROOTFS,upperdir=$1/up,workdir=$1/work" "$ROOTFS" > "$1/log" 2>&1 < /dev/null',
    "read-only": 'mount --bind "$ROOTFS" "$ROOTFS"; mount -o remount,bind,ro,nosuid "$ROOTFS"',
    "with mounts below": 'mount -t tmpfs -o noexec below "$ROOTFS/m"; mkdir "$ROOTFS/m/x"; '
    'mount -t tmpfs -o nodev deeper "$ROOTFS/m/x"',
    "with a locked tree below": 'mount -t tmpfs below "$ROOTFS/m"; mkdir "$ROOTFS/m/x"; mount -t tmpfs -o ro deeper '
    '"$ROOTFS/m/x"; unshare --user --mount --propagation private sleep 5 > /dev/null 2>&1 & pid=$!; '
    'until [ "$(readlink /proc/$pid/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do :; done; '
    "for map in uid_map gid_map; do echo 0 0 65536 > /proc/$pid/$map; done; "
    'shift; exec nsenter --user --mount --target $pid "$@"',
    "moved away behind a link": 'mount --bind "$ROOTFS" "$1/sub"; ln -s "$1/sub" "$1/link"',
}


@pytest.mark.parametrize("kind", ROOTS)
def test_a_root_filesystem_of_any_kind_is_seen_as_with_runc(beside: Beside, kind: str) -> None:
    sides = (beside.ours, beside.theirs)
    ours, theirs = [side.mountinfo(before=f"set -e; {ROOTS[kind]}", also=["/"]) for side in sides]
    words = re.compile(r"/dev/loop\d+|(?<=work=)\d+")
    assert [words.sub("N", row) for row in ours.values()] == [words.sub("N", row) for row in theirs.values()]
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("where", ["relative", "absolute", "a chain"])
def test_a_root_that_is_a_link_is_followed(beside: Beside, where: str) -> None:
    for side in (beside.ours, beside.theirs):
        bundle = side.bundle("true", mounts=()).path
        links = {"relative": ["rootfs"], "absolute": [str(bundle / "rootfs")], "a chain": ["two", "../bundle/rootfs"]}
        for name, target in zip(("way", "two"), links[where], strict=False):
            (bundle / name).unlink(missing_ok=True)
            (bundle / name).symlink_to(target)
    plain = beside.ours.mountinfo(also=["/"])
    try:
        beside.ours.root = beside.theirs.root = "way"
        assert beside.ours.mountinfo(also=["/"]) == plain
        assert "invalid rootfs: not an absolute path, or a symlink" in beside.theirs.error()
    finally:
        beside.ours.root = beside.theirs.root = "rootfs"


LEADS_NOWHERE = {
    "nowhere": "no such file",
    "way": "too many levels of symbolic links",
    "config.json": "not a directory",
}


@pytest.mark.parametrize("target", LEADS_NOWHERE, ids=["dangling", "loop", "a file"])
def test_a_root_that_leads_nowhere_is_an_error_of_both(beside: Beside, target: str) -> None:
    for side in (beside.ours, beside.theirs):
        bundle = side.bundle("true", mounts=()).path
        (bundle / "way").unlink(missing_ok=True)
        (bundle / "way").symlink_to(target)
        side.root = "way"
        try:
            error = side.error()
            assert error
            assert side is beside.theirs or f": {LEADS_NOWHERE[target]}" in error.partition("invalid rootfs: stat ")[2]
        finally:
            side.root = "rootfs"
