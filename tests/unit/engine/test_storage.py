"""Sizes of containers: options, words, and the calls by which one could get out."""

from __future__ import annotations

import msgspec
import pytest

from corten.engine import seccomp, storage
from corten.engine.mountspec import MountPoint
from corten.errors import Internal, InvalidArgument
from corten.launch.seccomp_compile import compile_profile
from support import seccompfilter
from support.seccompfilter import ALLOW, ERRNO

IOCTL, IOCTL_32 = 16, 54
FSSETXATTR, SETFLAGS, SETFLAGS_32 = 0x401C5820, 0x40086602, 0x40046602
EPERM = ERRNO | 1


@pytest.mark.parametrize(
    ("options", "has_quotas", "words"),
    [
        ({"size": "1g"}, False, "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
        ({"size": "x"}, True, "invalid size: 'x'"),
        ({"other": "1"}, True, "Unknown option other"),
    ],
)
def test_wrong_options_are_refused_in_dockerds_words(options: dict[str, str], has_quotas: bool, words: str) -> None:
    with pytest.raises(Internal) as caught:
        storage.check_options(options, has_quotas=has_quotas)
    assert caught.value.text == words


def test_a_size_is_in_bytes_and_its_key_in_any_case() -> None:
    storage.check_options({"Size": "1k"}, has_quotas=True)
    found = [storage.size_of(options) for options in (None, {}, {"size": "0"}, {"Size": "1.5k"})]
    assert found == [0, 0, 0, 1536]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("overlay2.size", "unable to parse key/value option: overlay2.size"),
        ("size=1g", "overlay2: unknown option size"),
        ("overlay2.size=x", "invalid size: 'x'"),
    ],
)
def test_wrong_options_of_the_driver_are_refused_in_dockerds_words(option: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        storage.driver_options([option])
    assert caught.value.text == words


def test_the_drivers_size_is_that_of_containers_without_one() -> None:
    given = ["overlay2.override_kernel_check=true", "Overlay2.Size=2g"]
    assert storage.default_options(given) == {"size": "2g"}
    assert storage.default_options(["overlay2.size=0"]) == {}


def test_a_container_is_confined_when_it_or_a_volume_of_it_has_a_size() -> None:
    limited = MountPoint(kind="volume", target="/v", has_size=True)
    assert storage.is_confined({"size": "1g"}, ())
    assert storage.is_confined(None, [limited])
    assert not storage.is_confined({"size": "0"}, [MountPoint(kind="bind", target="/b")])


def test_the_filter_refuses_the_calls_that_change_a_project_and_no_others() -> None:
    host = seccomp.Host("x86_64", (6, 1), frozenset({"CAP_CHOWN"}))
    text = seccomp.resolved_default(host, msgspec.json.encode(list(storage.RULES)))
    program = compile_profile(msgspec.json.decode(text))
    high = 1 << 32  # which the kernel does not look at
    for request in (FSSETXATTR, SETFLAGS, SETFLAGS_32, high | FSSETXATTR, high | SETFLAGS):
        assert seccompfilter.run(program, IOCTL, 3, request) == EPERM, hex(request)
    assert seccompfilter.run(program, IOCTL_32, 3, SETFLAGS_32, arch=seccompfilter.I386) == EPERM
    # FS_IOC_FSGETXATTR, FS_IOC_GETFLAGS, terminals, sockets, block devices, FICLONE
    for request in (0x801C581F, 0x80086601, 0x5401, 0x5414, 0x402C542B, 0x541B, 0x5421, 0x8912, 0x125F, 0x40049409):
        assert seccompfilter.run(program, IOCTL, 3, request) == ALLOW, hex(request)
