"""How two containers are compared: what is left out, what is named anew, what is found."""

from __future__ import annotations

from support import sameness
from support.sameness import Known, Look

HOST = "254:3"
TEXT = f"""\
@@ mountinfo
100 90 0:4001 / / rw,relatime master:11 - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
101 100 0:4002 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k
102 100 {HOST} /data/ID1 /etc/hosts rw shared:5 master:6 - ext4 /dev/vda rw
103 101 0:4002 /null /proc/keys ro - tmpfs tmpfs rw,size=65536k
@@ status
Name:\tsh
Pid:\t17
PPid:\t0
NSpid:\t17
SigQ:\t6/96365
VmRSS:\t1408 kB
CapEff:\t00000000a80425fb
voluntary_ctxt_switches:\t7
@@ limits
Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 2048                 files
@@ fd
total 0
lrwx------    1 root     root            64 Nov 22 19:21 0 -> /dev/null
l-wx------    1 root     root            64 Nov 22 19:21 1 -> pipe:[26894820]
@@ dev
/dev:
total 0
crw-rw-rw-    1 root     root        1,   3 Nov 22 19:21 null
lrwxrwxrwx    1 root     root            13 Nov 22 19:21 fd -> /proc/self/fd
@@ umask
0022
@@ cgroups
./pids/pids.max:500
./pids/pids.current:3
./pids/tasks:1
./devices/devices.list:c 1:5 rwm
./devices/devices.list:c 1:3 rwm
./blkio/blkio.throttle.io_service_bytes:Total 0
./blkio/blkio.throttle.read_bps_device:254:0 1000000
@@ end
"""


def look(text: str = TEXT) -> Look:
    return sameness.parse(text, {"ID1": "ID"})


def test_a_mount_is_told_by_its_place_and_not_by_numbers() -> None:
    mounts = look().sections["mountinfo"]
    assert (
        mounts["/"] == "overlay overlay (that of /) / below nothing: rw,relatime; master; rw,lowerdir,upperdir,workdir"
    )
    assert mounts["/etc/hosts"] == f"ext4 /dev/vda ({HOST}) /data/ID below /: rw; master shared; rw"
    assert mounts["/proc/keys"].startswith("tmpfs tmpfs (that of /dev) /null below /dev: ro; private;")


def test_what_moves_by_itself_is_left_out_and_the_rest_is_kept() -> None:
    sections = look().sections
    assert sections["status"] == {
        "Pid": "self",
        "PPid": "0",
        "NSpid": "self",
        "CapEff": "00000000a80425fb",
        "SigQ": "96365",
    }
    assert sections["cgroups"] == {
        "pids/pids.max": "500",
        "devices/devices.list": "c 1:3 rwm|c 1:5 rwm",
        "blkio/blkio.throttle.read_bps_device": "254:0 1000000",
    }
    assert sections["limits"]["Max open files"] == "1024 2048 files"
    assert sections["fd"] == {"0": "lrwx------ /dev/null", "1": "l-wx------ pipe:[N]"}
    assert sections["dev"] == {
        "/dev/null": "crw-rw-rw- root root 1, 3",
        "/dev/fd": "lrwxrwxrwx root root /proc/self/fd",
    }


def test_other_numbers_are_no_difference() -> None:
    other = TEXT.replace("0:400", "0:500").replace("master:11", "master:12").replace("17", "23").replace("ID1", "ID")
    assert sameness.differences(look(), look(other)) == []


def test_a_difference_is_told_unless_a_row_explains_it() -> None:
    changes = {"a80425fb": "a80425fa", "pids.max:500": "pids.max:max", "0:4002 /null": "0:4009 /null", "0022": "0077"}
    other = TEXT
    for before, after in changes.items():
        other = other.replace(before, after)
    found = sameness.differences(look(), look(other))
    assert {(one.section, one.key) for one in found} == {
        ("status", "CapEff"),
        ("cgroups", "pids/pids.max"),
        ("mountinfo", "/proc/keys"),
        ("umask", ""),
    }
    known = (
        Known("pids limit", "cgroups", r"pids/pids\.max", "500", "max"),
        Known("none", "status", "Cap", ".*", ".*"),
    )
    assert len(sameness.unexplained(found, known)) == 3
    assert sameness.rows_seen(found, known) == {"pids limit"}


def test_a_mount_that_is_missing_is_a_difference() -> None:
    without = "\n".join(line for line in TEXT.splitlines() if not line.startswith("103 "))
    (found,) = sameness.differences(look(), look(without))
    assert (found.key, found.ours) == ("/proc/keys", None)
