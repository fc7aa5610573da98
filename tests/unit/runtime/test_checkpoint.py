"""What CRIU is asked, and what becomes of its answers; CRIU is a program of the test's own."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from corten.errors import CortenError, FailedPrecondition, Internal
from corten.runtime import args, checkpoint, criu
from corten.runtime.log import Log
from corten.runtime.protobuf import Message, data, number

# takes the request, tells the answers that it was made with, keeps what it was sent
CRIU = """\
#!{interpreter} -IS
import socket, sys
assert sys.argv[1] == "swrk"
stream = socket.socket(fileno=int(sys.argv[2]))
with open({log!r}, "wb") as log:
    for answer in {answers!r}:
        log.write(stream.recv(65536).hex().encode() + b"\\n")
        stream.send(bytes.fromhex(answer))
"""
DUMPED = number(1, criu.DUMP) + number(2, 1)
TOLD = number(1, criu.NOTIFY) + number(2, 1)


def program(folder: Path, *answers: bytes) -> str:
    path = folder / "criu"
    text = CRIU.format(interpreter=sys.executable, log=f"{folder}/log", answers=[one.hex() for one in answers])
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def messages(folder: Path) -> list[Message]:
    return [Message(bytes.fromhex(line)) for line in (folder / "log").read_text().splitlines()]


def options(*words: str) -> args.Options:
    return args.parse(["corten-runtime", "checkpoint", *words, "c"]).options


def test_a_request_reaches_criu_and_its_notes_are_answered(tmp_path: Path) -> None:
    request = criu.Request()
    request.number("pid", 7)
    request.text("root", "/x")
    criu.carry_out(criu.DUMP, request, program(tmp_path, TOLD, TOLD, DUMPED))
    first, *others = messages(tmp_path)
    assert (first.number(1), first.message(2).number(2), first.message(2).data(13)) == (criu.DUMP, 7, b"/x")
    assert [(one.number(1), one.number(3)) for one in others] == [(criu.NOTIFY, 1), (criu.NOTIFY, 1)]


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (number(1, criu.DUMP) + number(2, 0) + number(7, 12), criu.Failed, "criu failed: type DUMP errno 12"),
        (number(1, criu.NOTIFY) + number(2, 0), criu.Failed, "criu failed: type NOTIFY errno 0"),
        (b"", criu.Failed, "criu ended without an answer"),
        (b"\x08", Internal, "criu: protocol buffer: ends in the middle of a number"),
        (number(1, 2) + number(2, 1), Internal, "criu answered with type 2"),
    ],
)
def test_a_failure_of_criu_is_told_in_the_words_of_runc(
    tmp_path: Path, answer: bytes, kind: type[CortenError], text: str
) -> None:
    with pytest.raises(kind) as caught:
        criu.carry_out(criu.DUMP, criu.Request(), program(tmp_path, answer))
    assert caught.value.text == text


def test_a_missing_criu_is_told_in_the_words_of_runc(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="CRIU version check failed"):
        criu.find(str(tmp_path / "criu"))


@pytest.mark.parametrize(("feature", "name"), [(criu.MEM_TRACK, "MemTrack"), (criu.LAZY_PAGES, "LazyPages")])
def test_criu_is_asked_for_its_features(tmp_path: Path, feature: int, name: str) -> None:
    answer = number(1, criu.FEATURE_CHECK) + number(2, 1)
    criu.check_feature(program(tmp_path, answer + data(8, number(feature, 1))), feature, name)
    (asked,) = messages(tmp_path)
    assert (asked.number(1), asked.message(5).number(feature)) == (criu.FEATURE_CHECK, 1)
    with pytest.raises(FailedPrecondition, match=f"CRIU is missing features: .{name}.$"):
        criu.check_feature(program(tmp_path, answer + data(8, number(3 - feature, 1))), feature, name)


def lazy(folder: Path, *words: str) -> tuple[criu.Request, criu.OnNote]:
    """What is added to a request and done at notes, by a CRIU that has lazy pages; warnings go to `warnings`."""
    has = number(1, criu.FEATURE_CHECK) + number(2, 1) + data(8, number(criu.LAZY_PAGES, 1))
    request, log = criu.Request(), Log(f"{folder}/warnings", "text", debug_wanted=False)
    return request, checkpoint.lazy_pages(request, options(*words), program(folder, has), log)


@pytest.mark.parametrize("pair", ["pipe", "sockets"])
def test_who_waits_for_lazy_pages_gets_one_byte(tmp_path: Path, pair: str) -> None:
    read, write = os.pipe() if pair == "pipe" else [end.detach() for end in socket.socketpair()]
    os.set_inheritable(write, True)
    request, tell = lazy(tmp_path, "--lazy-pages", "--status-fd", str(write))
    assert Message(request.encoded()).number(criu.FIELDS["notify_scripts"]) == 1, "CRIU is to tell"
    tell("pre-dump", 0, -1)
    tell("status-ready", 0, -1)
    assert os.read(read, 9) == b"\0"
    assert os.read(read, 9) == b"", "it is closed"
    os.close(read)
    assert (tmp_path / "warnings").read_text() == ""


@pytest.mark.parametrize("words", ["--status-fd 99", "--lazy-pages", "--lazy-pages --status-fd -1"])
def test_nobody_is_told_who_does_not_wait(tmp_path: Path, words: str) -> None:
    request, tell = lazy(tmp_path, *words.split())
    assert (request.encoded(), tell) == (b"", criu.agree)


def test_a_descriptor_that_no_byte_can_go_to_is_refused(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)
    bad = ((read, "not writable"), (99, "bad file descriptor"), (-2, "bad file descriptor"), (1 << 40, "bad file desc"))
    for fd, text in bad:
        with pytest.raises(CortenError, match=f"invalid --status-fd argument {fd}: {text}"):
            lazy(tmp_path, "--lazy-pages", "--status-fd", str(fd))
    os.close(read)
    os.close(write)


def test_a_descriptor_of_our_own_is_none_that_was_handed_in(tmp_path: Path) -> None:
    """`--log FILE --status-fd 3` without a descriptor 3: it is the log."""
    log = Log(f"{tmp_path}/log", "text", debug_wanted=False)
    with pytest.raises(CortenError, match=f"invalid --status-fd argument {log.fd}: bad file descriptor"):
        lazy(tmp_path, "--lazy-pages", "--status-fd", str(log.fd))
    log.warning("it is open")
    os.close(log.fd)


def test_a_dump_goes_on_when_nobody_waits_any_more(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    os.close(read)
    _, tell = lazy(tmp_path, "--lazy-pages", "--status-fd", str(write))
    tell("status-ready", 0, -1)
    assert "can't write \\\\0 to status fd: broken pipe" in (tmp_path / "warnings").read_text()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)


def test_flags_of_the_command_line_become_options_of_criu() -> None:
    request = criu.Request()
    flags = ("--leave-running", "--tcp-established", "--lazy-pages")
    words = (*flags, "--manage-cgroups-mode", "strict", "--page-server", "[::1]:99")
    checkpoint.options_of(options(*words), request)
    sent = Message(request.encoded())
    names = ("leave_running", "tcp_established", "manage_cgroups_mode", "shell_job", "empty_ns", "lazy_pages")
    assert [sent.number(criu.FIELDS[name]) for name in names] == [1, 1, 5, 0, 0x40000000, 1]
    server = sent.message(criu.FIELDS["page_server"])
    assert (server.data(1), server.number(2)) == (b"::1", 99)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--manage-cgroups-mode hard", "Invalid manage cgroups mode"),
        ("--empty-ns pid", 'namespace "pid" is not supported'),
        ("--page-server here", "Use --page-server ADDRESS:PORT to specify page server"),
        ("--page-server here:x", "Invalid port number"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: str, text: str) -> None:
    with pytest.raises(CortenError) as caught:
        checkpoint.options_of(options(*words.split()), criu.Request())
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("parent", "text"),
    [
        ("/abs", "--parent-path must be relative"),
        ("../none", "no such file or directory"),
        ("../file", "not a directory"),
    ],
)
def test_a_parent_is_a_directory_named_from_the_images(tmp_path: Path, parent: str, text: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "there").mkdir()
    checkpoint.check_parent(f"{tmp_path}/images", "../there")
    with pytest.raises(CortenError, match=text):
        checkpoint.check_parent(f"{tmp_path}/images", parent)


def test_links_are_followed_as_the_container_sees_them(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run/../run/./x")
    (tmp_path / "up").symlink_to("../../../etc")
    (tmp_path / "loop").symlink_to("loop")
    found = {path: checkpoint.resolved(str(tmp_path), path) for path in ("/var/run/y", "up/passwd", "/a/../b/")}
    assert found == {"/var/run/y": "/run/x/y", "up/passwd": "/etc/passwd", "/a/../b/": "/b"}
    with pytest.raises(CortenError, match="too many levels"):
        checkpoint.resolved(str(tmp_path), "/loop")


def test_mount_points_are_read_without_their_escapes() -> None:
    lines = "1 0 0:1 / / rw - tmpfs a rw\n2 1 0:2 / /with\\040space\\134x rw - tmpfs b rw\n"
    assert checkpoint.mount_points(lines) == {"/", "/with space\\x"}


def test_stdio_is_named_by_where_it_goes() -> None:
    assert checkpoint.stdio_of(os.getpid()) == [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3)]
