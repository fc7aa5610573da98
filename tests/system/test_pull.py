"""Pulls by a whole engine from a real registry: what is private, what breaks on the way, what is wanted twice."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any

import pytest

from support import images, pullimages
from support.engine import CortenEngine
from support.httpthread import connect, listen
from support.netns import NetNs
from support.registries import PASSWORD, USER, Registry

FIVE = pullimages.several(5)
SIZE = 3 << 20


def large() -> pullimages.Image:
    """busybox and a layer that takes a while."""
    data = images.layer([images.Entry("large", pullimages.noise(7, SIZE))])
    return pullimages.image([*images.busybox_layers(), data])


@pytest.fixture
def engine() -> Iterator[CortenEngine]:
    with CortenEngine() as made:
        yield made


@pytest.fixture
def registry(engine: CortenEngine) -> Iterator[Registry]:
    with Registry(netns=engine.netns) as made:
        yield made


class Tap:
    """A port that leads to a registry's; `after` bytes in one answer it stops, and goes on or breaks off as told."""

    def __init__(self, netns: NetNs, port: int, after: int) -> None:
        self.netns, self.target, self.after = netns, port, after
        self.requests: list[str] = []
        self.is_open = threading.Event()
        self.is_reached = threading.Event()
        self.is_cut = False
        self._listener = listen(netns)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Breaks off what waits; what comes later goes through."""
        self.is_cut = True
        self.is_open.set()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(here,), daemon=True).start()

    def _serve(self, here: socket.socket) -> None:
        with here, connect(("127.0.0.1", self.target), self.netns) as there:
            up = in_background(lambda: self._up(here, there))
            self._down(there, here)
            up.join()

    def _up(self, here: socket.socket, there: socket.socket) -> None:
        while data := _read(here):
            self.requests += [line for line in data.decode(errors="replace").splitlines() if "Range" in line]
            there.sendall(data)
        _end(there)

    def _down(self, there: socket.socket, here: socket.socket) -> None:
        passed = 0
        while data := _read(there):
            passed += len(data)
            if passed > self.after and not self.is_open.is_set():
                self.is_reached.set()
                self.is_open.wait()
                if self.is_cut:
                    break
            try:
                here.sendall(data)
            except OSError:
                break
        _end(here)
        _end(there)

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_open.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""


def _end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def staged(engine: CortenEngine) -> list[str]:
    return [path.name for path in (engine.data_root / "snapshots" / "staging").iterdir()]


def partials(engine: CortenEngine) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (engine.data_root / "content/partial").glob("*/*")}


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("command", ["corten", "docker"])
def test_an_image_is_pulled_and_runs(engine: CortenEngine, registry: Registry, command: str) -> None:
    reference = FIVE.push(registry, "a/b", "1")
    run = getattr(engine, command)
    done = run("pull", reference, check=True)
    assert done.stdout.splitlines()[-2:] == [f"Status: Downloaded newer image for {reference}", reference]
    assert run("run", "--rm", reference, "ls", "/layers", check=True).stdout.split() == ["2", "3", "4"]
    assert not partials(engine)
    assert not staged(engine)


def test_run_pulls_what_is_missing_and_always_when_told(engine: CortenEngine, registry: Registry) -> None:
    reference = FIVE.push(registry, "a/b", "1")
    first = engine.corten("run", "--rm", reference, "echo", "ran", check=True)
    assert first.stdout == "ran\n"
    assert first.stderr.startswith(f"Unable to find image '{reference}' locally\n1: Pulling from a/b\n")
    again = engine.corten("run", "--rm", "--pull", "always", reference, "true", check=True)
    assert f"Status: Image is up to date for {reference}" in again.stderr
    assert engine.corten("run", "--rm", "-q", "--pull", "always", reference, "true", check=True).stderr == ""
    missing = engine.corten("create", "--pull", "never", f"{registry.host}/a/b:2")
    assert missing.returncode == 1
    assert "No such image" in missing.stderr


def test_run_pulls_the_platform_that_is_wanted(engine: CortenEngine, registry: Registry) -> None:
    reference = pullimages.two_platforms().push(registry, "a/two", "1")
    engine.corten("create", "--platform", "linux/arm64", reference, check=True)
    assert engine.corten("inspect", "-f", "{{.Architecture}}", reference).stdout == "arm64\n"


@pytest.mark.parametrize("command", ["corten", "docker"])
def test_a_private_image_is_pulled_with_the_credentials_of_a_login(command: str) -> None:
    with CortenEngine() as engine, Registry(netns=engine.netns, users={USER: PASSWORD}) as registry:
        reference = FIVE.push(registry, "a/b", "1")
        run = getattr(engine, command)
        refused = run("pull", reference)
        assert refused.returncode == 1
        assert "no basic auth credentials" in refused.stderr
        folder = engine.folder / "client"
        registry.docker_auth(folder / "config.json")
        run("--config", str(folder), "pull", "-q", reference, check=True)


def test_an_engine_that_is_killed_takes_the_layer_up_where_it_was(engine: CortenEngine, registry: Registry) -> None:
    image = large()
    image.push(registry, "a/b", "1")
    with Tap(engine.netns, registry.port, SIZE // 2) as tap:
        reference = f"127.0.0.1:{tap.port}/a/b:1"
        thread = in_background(lambda: engine.docker("pull", reference))
        layer = image.layers[-1].digest[7:]
        wait_for(lambda: any(size > SIZE // 16 for name, size in partials(engine).items() if layer in name))
        engine.kill9()
        thread.join(30)
        (left,) = [size for name, size in partials(engine).items() if layer in name]
        tap.cut()
        engine.start()
        assert not engine.docker("images", "-aq", check=True).stdout
        assert not staged(engine)
        engine.docker("pull", reference, check=True)
        assert any(f"bytes={left}-" in line for line in tap.requests)
        assert engine.docker("run", "--rm", reference, "wc", "-c", "/large").stdout.split()[0] == str(SIZE)
        assert not partials(engine)


def test_a_registry_that_comes_back_is_asked_for_the_rest(engine: CortenEngine, registry: Registry) -> None:
    large().push(registry, "a/b", "1")
    with Tap(engine.netns, registry.port, SIZE // 2) as tap:
        reference = f"127.0.0.1:{tap.port}/a/b:1"
        done: list[str] = []
        thread = in_background(lambda: done.append(engine.docker("pull", reference, check=True).stdout))
        assert tap.is_reached.wait(30)
        registry.kill()
        tap.cut()
        registry.start()
        thread.join(60)
        assert f"Downloaded newer image for {reference}" in done[0]
        assert tap.requests


def pull_by_api(engine: CortenEngine, reference: str, told: list[dict[str, Any]]) -> None:
    """Appends every message of a pull to `told` as it comes."""
    name, _, tag = reference.rpartition(":")
    connection = http.client.HTTPConnection("engine", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(engine.socket))
    connection.request("POST", f"/images/create?fromImage={name}&tag={tag}")
    told.extend(map(json.loads, connection.getresponse()))
    connection.close()


def is_bar_of(layer: pullimages.Blob, message: dict[str, Any]) -> bool:
    """Whether it says how much of a layer is here."""
    return (message["status"], message.get("id")) == ("Downloading", layer.digest[7:19])


def test_what_two_clients_want_is_fetched_once(engine: CortenEngine, registry: Registry) -> None:
    image = large()
    image.push(registry, "a/b", "1", "2")
    with Tap(engine.netns, registry.port, SIZE // 2) as tap:
        told: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        threads = [
            in_background(partial(pull_by_api, engine, f"127.0.0.1:{tap.port}/a/b:{tag}", told[tag - 1]))
            for tag in (1, 2)
        ]
        wait_for(lambda: all(any(is_bar_of(image.layers[-1], one) for one in some) for some in told))
        tap.is_open.set()
        for thread in threads:
            thread.join(60)
    assert all("Downloaded newer image" in some[-1]["status"] for some in told)
    asked = [line for line in registry.log_tail(200).splitlines() if "GET /v2/a/b/blobs/" in line]
    assert len([line for line in asked if image.layers[-1].digest in line]) == 1
    assert len(engine.docker("images", "-q", check=True).stdout.split()) == 2


def arriving(engine: CortenEngine) -> dict[str, int]:
    """Bytes of the files of layers on their way, by name."""
    found = (engine.data_root / "snapshots" / "staging").glob("*/fs/*")
    return {path.name: path.stat().st_size for path in found if path.is_file()}


def test_layers_are_unpacked_together_while_they_arrive_and_the_bars_move(
    engine: CortenEngine, registry: Registry
) -> None:
    names = ("one", "two")
    layers = [images.layer([images.Entry(name, pullimages.noise(n, SIZE))]) for n, name in enumerate(names, 20)]
    image = pullimages.image([*images.busybox_layers(), *layers])
    image.push(registry, "a/b", "1")
    with Tap(engine.netns, registry.port, SIZE // 2) as tap:
        reference, told = f"127.0.0.1:{tap.port}/a/b:1", list[dict[str, Any]]()
        thread = in_background(partial(pull_by_api, engine, reference, told))
        wait_for(lambda: all(arriving(engine).get(name, 0) for name in names))  # one may share its line with another
        assert not tap.is_open.is_set()
        assert max(arriving(engine).values()) < SIZE
        tap.is_open.set()
        thread.join(60)
    for blob in image.layers[-2:]:
        bars = [one["progressDetail"] for one in told if is_bar_of(blob, one)]
        counts = [bar["current"] for bar in bars]
        assert {bar["total"] for bar in bars} == {len(blob.data)}
        assert counts == sorted(counts)
        assert any(0 < count < len(blob.data) for count in counts)
    done = engine.docker("run", "--rm", reference, "wc", "-c", "/one", "/two")
    assert done.stdout.split()[:4:2] == [str(SIZE)] * 2


def test_a_client_that_goes_away_ends_its_pull(engine: CortenEngine, registry: Registry) -> None:
    large().push(registry, "a/b", "1")
    with Tap(engine.netns, registry.port, SIZE // 2) as tap:
        connection = http.client.HTTPConnection("engine", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(engine.socket))
        connection.request("POST", f"/images/create?fromImage=127.0.0.1:{tap.port}/a/b&tag=1")
        assert tap.is_reached.wait(30)
        connection.close()
        wait_for(lambda: not staged(engine))
    assert not engine.docker("images", "-aq", check=True).stdout


def test_a_platform_of_an_index_that_is_here_is_run_without_asking_again(
    engine: CortenEngine, registry: Registry
) -> None:
    reference = pullimages.two_platforms().push(registry, "a/two", "1")
    for platform in ("linux/amd64", "linux/arm64"):
        engine.corten("pull", "-q", "--platform", platform, reference, check=True)
    registry.kill()
    done = engine.docker("run", "--rm", "--platform", "linux/amd64", reference, "echo", "ran")
    assert done.stdout == "ran\n"
