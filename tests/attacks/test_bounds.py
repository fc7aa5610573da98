"""Too much of everything: bodies, documents, archives, output, clients.  The engine says no, goes on, and stays small.

CVE-2017-14992, 2018-20699, 2021-21285, 2022-23471, 2022-31030, 2023-25153, 2025-64329, 2024-23650 (field.md, D12).
What has a budget of its own has a twin without it.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from corten.core.limits import DEFAULT
from support import images, peers, process, weakened_corten
from support import tarballs as t
from support.engine import CortenEngine
from support.weakened import Edit

MIB = 1 << 20
CREATE = b"POST /v1.45/containers/create HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n"
OUTPUT_BYTES = 40 * MIB
ATTACHED = 300

# Documents nested so deep that a recursive reader falls over.
NOT_DEEP: tuple[Edit, ...] = (
    ("spec/image.py", "(msgspec.DecodeError, UnicodeDecodeError, RecursionError)", "msgspec.DecodeError"),
)
MEMBERS: tuple[Edit, ...] = (
    ("core/members.py", "entries=min(limits.entries, _ENTRIES_MAX)", "entries=limits.entries"),
)


def resident(pid: int) -> int:
    """Bytes in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def send(engine: CortenEngine, data: bytes) -> bytes:
    """The answer to raw bytes; the engine may answer before it has read them all."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(engine.socket))
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        answer = b""
        while b"}" not in answer and (chunk := connection.recv(65536)):
            answer += chunk
        return answer


def create(engine: CortenEngine, body: bytes) -> bytes:
    return send(engine, CREATE + b"Content-Length: %d\r\n\r\n" % len(body) + body)


BODIES: dict[str, tuple[bytes, str]] = {
    "arrays": (b"[" * MIB, "exceeded max depth"),
    "objects": (b'{"a":' * 200_000, "exceeded max depth"),
    "in a field": (b'{"Image":"x","Labels":' + b'{"a":' * 200_000, "exceeded max depth"),
    "in an unknown field": (b'{"Image":"x","Zzz":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "exceeded max depth"),
    "a number of a million digits": (b'{"HostConfig":{"Memory":' + b"9" * MIB + b"}}", "out of range"),
    "a name of ten megabytes": (b'{"Image":"' + b"a" * 10 * MIB + b'"}', "must not be more than 255 characters"),
    "bytes that are no text": (b'{"Image":"\xff\xfe"}', "invalid JSON"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_too_much_is_refused_in_a_sentence(shared_engine: CortenEngine, name: str) -> None:
    body, text = BODIES[name]
    before = resident(shared_engine.pid)
    answer = create(shared_engine, body)
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:300]
    assert text in answer.decode()
    assert resident(shared_engine.pid) - before < 96 * MIB


def test_a_body_that_says_it_is_endless_is_refused_at_once(shared_engine: CortenEngine) -> None:
    assert b"request body too large" in send(shared_engine, CREATE + b"Content-Length: 99999999999\r\n\r\n")


def test_a_body_without_end_is_refused_after_a_while(shared_engine: CortenEngine) -> None:
    chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
    before = resident(shared_engine.pid)
    answer = send(shared_engine, CREATE + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 64)
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert resident(shared_engine.pid) - before < 96 * MIB


def test_a_head_without_end_is_refused(shared_engine: CortenEngine) -> None:
    answer = send(shared_engine, b"GET /_ping HTTP/1.1\r\n" + b"X: " + b"y" * 8 * MIB)
    assert answer.split(b"\r\n")[0].split()[1] in (b"400", b"431"), answer[:200]


# Documents of images.

DEEP = b"[" * 500_000 + b"]" * 500_000
DOCUMENTS: dict[str, Callable[[], bytes]] = {
    "configuration": lambda: t.docker_archive(
        [], ("deep:1",), config=b'{"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"x":' + DEEP + b"}"
    ),
    "index": lambda: t.archive(
        t.entry(b"oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}'),
        t.entry(b"index.json", data=b'{"schemaVersion":2,"x":' + DEEP + b"}"),
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_nested_too_deep_is_refused_in_a_sentence(shared_engine: CortenEngine, name: str) -> None:
    done = shared_engine.docker("load", stdin=DOCUMENTS[name]())
    assert done.returncode == 1
    assert "maximum recursion depth exceeded" in done.stderr


def test_twin_an_engine_that_does_not_expect_it_breaks_off() -> None:
    with weakened_corten.build(*NOT_DEEP) as weak, CortenEngine(commands=weak.commands) as engine:
        assert "recursion depth" not in engine.docker("load", stdin=DOCUMENTS["index"]()).stderr
        assert "RecursionError" in engine.log_tail(200)


def test_a_large_document_is_refused(shared_engine: CortenEngine) -> None:
    done = shared_engine.docker("load", stdin=t.archive(t.entry(b"manifest.json", data=b" " * (30 * MIB))))
    assert "larger than" in done.stderr


def many_members() -> bytes:
    return t.archive(*[t.entry(b"s%d" % number) for number in range(70_000)])


def test_an_archive_of_many_small_files_is_refused(shared_engine: CortenEngine) -> None:
    assert "more than 65536 entries" in shared_engine.docker("load", stdin=many_members()).stderr


def test_twin_without_the_bound_every_file_is_taken_in() -> None:
    with weakened_corten.build(*MEMBERS) as weak:
        (members,) = weak.modules("corten.core.members")
        kept = members.Members(SimpleNamespace(root="/"), None, "")
        kept.collect([many_members()], DEFAULT)
        assert "s69999" in kept


# Output and clients.


@pytest.fixture
def talker(shared_engine: CortenEngine) -> Iterator[tuple[CortenEngine, int]]:
    """A container that writes one line without an end and then sleeps, and its shim's pid."""
    script = f"tr '\\0' y </dev/zero | head -c {OUTPUT_BYTES}; touch /done; sleep 1000"
    shared_engine.docker(
        "run", "-d", "--name", "talker", "--network", "none", images.BUSYBOX_REF, "sh", "-c", script, check=True
    )
    pid = int(shared_engine.docker("inspect", "-f", "{{.State.Pid}}", "talker", check=True).stdout)
    yield shared_engine, parent_of(pid)
    shared_engine.docker("rm", "-f", "talker", check=True)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_line_without_end_costs_neither_shim_nor_engine(talker: tuple[CortenEngine, int]) -> None:
    engine, shim = talker
    before = resident(engine.pid)
    process.wait_for(lambda: engine.docker("exec", "talker", "ls", "/done").returncode == 0, "all output", 60)
    assert resident(shim) < 40 * MIB
    log = Path(engine.docker("inspect", "-f", "{{.LogPath}}", "talker", check=True).stdout.strip())
    with log.open("rb") as file:
        assert max(len(line) for line, _ in zip(file, range(200), strict=False)) < 20_000
    with socket.socket(socket.AF_UNIX) as reader:  # which does not read
        reader.connect(str(engine.socket))
        reader.sendall(b"GET /v1.45/containers/talker/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
        time.sleep(1)
        assert resident(engine.pid) - before < 64 * MIB


def test_output_that_nobody_takes_is_not_kept(talker: tuple[CortenEngine, int]) -> None:
    engine, shim = talker
    engine.docker("exec", "-d", "talker", "sh", "-c", "yes | head -c 60m; touch /said", check=True)
    process.wait_for(lambda: engine.docker("exec", "talker", "ls", "/said").returncode == 0, "end of the exec", 60)
    assert resident(shim) < 40 * MIB


@pytest.mark.parametrize("mode", ["blocking", "non-blocking"])
def test_output_that_a_log_server_does_not_take_stays_out_of_memory(
    shared_engine: CortenEngine, tmp_path: Path, mode: str
) -> None:
    words = (f"syslog-address=unix://{tmp_path}/stuck", f"mode={mode}")
    options = ("--log-driver", "syslog", *(part for word in words for part in ("--log-opt", word)))
    script = f"tr '\\0' y </dev/zero | head -c {OUTPUT_BYTES}; touch /done; sleep 1000"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/stuck")
        server.listen()
        shared_engine.docker("run", "-d", "--name", "talker", "--network", "none", *options, images.BUSYBOX_REF, "sh",
                             "-c", script, check=True)  # fmt: skip
        shim = parent_of(int(shared_engine.docker("inspect", "-f", "{{.State.Pid}}", "talker", check=True).stdout))
        courier = next(pid for pid in children_of(shim) if b"corten-shim" in Path(f"/proc/{pid}/cmdline").read_bytes())
        if mode == "blocking":
            time.sleep(2)
        else:
            done = ("exec", "talker", "ls", "/done")
            process.wait_for(lambda: shared_engine.docker(*done).returncode == 0, "all output", 60)
        assert resident(shim) < 40 * MIB
        assert resident(courier) < 40 * MIB
        shared_engine.docker("rm", "-f", "talker", check=True)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_client_that_does_not_read_stops_its_exec_and_costs_little(talker: tuple[CortenEngine, int]) -> None:
    engine, shim = talker
    before = resident(engine.pid)
    argv = [str(peers.docker_cli()), "-H", engine.host, "exec", "talker", "yes"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as client:
        time.sleep(2)
        assert resident(shim) < 40 * MIB
        assert resident(engine.pid) - before < 64 * MIB
        client.kill()


def test_many_attached_clients_are_served_and_forgotten(talker: tuple[CortenEngine, int]) -> None:
    engine, shim = talker
    shim_fds, engine_fds = descriptors(shim), descriptors(engine.pid)
    with ExitStack() as stack:
        for _ in range(ATTACHED):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(engine.socket))
            head = b"POST /v1.45/containers/talker/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
            connection.sendall(head + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 101"
        assert engine.docker("exec", "talker", "echo", "hi").stdout == "hi\n"
        assert resident(shim) < 60 * MIB
    process.wait_for(lambda: descriptors(shim) <= shim_fds + 2, "end of the clients in the shim")
    process.wait_for(lambda: descriptors(engine.pid) <= engine_fds + 4, "end of the clients in the engine")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("kind", ["environment", "arguments", "labels"])
def test_ten_megabytes_of_words_are_an_error_or_a_container_and_no_more(shared_engine: CortenEngine, kind: str) -> None:
    words = ["true", *(f"A{number}={'x' * 1000}" for number in range(10_000))]
    key = {"environment": "Env", "arguments": "Cmd", "labels": "Labels"}[kind]
    value = "{" + ",".join(f'"{word}":""' for word in words) + "}" if kind == "labels" else str(words).replace("'", '"')
    answer = create(shared_engine, f'{{"Image":"{images.BUSYBOX_REF}","{key}":{value}}}'.encode())
    assert answer.split()[1] in (b"201", b"400"), answer[:300]
    if answer.split()[1] == b"201":
        name = answer.split(b'"Id":"')[1][:12].decode()
        done = shared_engine.docker("start", name)
        assert done.returncode == 0 or "argument list too long" in done.stderr, done
        shared_engine.docker("rm", "-f", name, check=True)
    assert shared_engine.answers()
