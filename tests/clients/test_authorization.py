"""Authorization plugins: a real one beside a real client, with the same words as dockerd 26.1."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clients.api import Api, Connection
from support import images, paths
from support.authzplugin import Plugin, body
from support.dockerd import DockerClient, Dockerd
from support.engine import CortenEngine
from support.netns import NetNs
from support.process import wait_for

IMAGE = images.BUSYBOX_REF
BOX = "authz-box"


@contextmanager
def engine_with(plugin: Plugin, kind: str = "corten") -> Iterator[DockerClient]:
    """One that asks the plugin about everything, with the image."""
    made: CortenEngine | Dockerd
    if kind == "corten":
        made = CortenEngine(config={"authorization-plugins": [plugin.name]})
    else:
        made = Dockerd("26.1", args=["--authorization-plugin", plugin.name], inside=plugin.announce)
    with made as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        yield engine


@pytest.fixture(scope="module")
def netns() -> Iterator[NetNs]:
    """Of cortends that do not start."""
    with NetNs() as made:
        yield made


@pytest.fixture(scope="module")
def plugin() -> Iterator[Plugin]:
    with Plugin() as made:
        yield made


@pytest.fixture(scope="module")
def box(plugin: Plugin) -> Iterator[CortenEngine]:
    """An engine that asks `plugin`, with a container that runs."""
    with engine_with(plugin) as engine:
        engine.docker("run", "-d", "--name", BOX, IMAGE, "sleep", "1000", check=True)
        assert isinstance(engine, CortenEngine)
        yield engine


@pytest.fixture(autouse=True)
def allowing(plugin: Plugin) -> Iterator[None]:
    """The plugin allows everything at the begin and at the end."""
    judge = plugin.judge
    plugin.seen.clear()
    yield
    plugin.judge = judge


def refuse(method: str, uri: str) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """A judge who says no to these."""

    def judge(of: str, asked: dict[str, Any]) -> dict[str, Any]:
        is_it = of == method and asked["RequestUri"].partition("?")[0].endswith(uri)
        return {"Allow": not is_it, "Msg": "not today"}

    return judge


def scenario(engine: DockerClient, plugin: Plugin) -> list[tuple[int, str, str]]:
    """What a client sees of refusals of every kind; the plugin's name is taken out."""
    judge, said = plugin.judge, []

    def play(*words: str) -> None:
        done = engine.docker(*words)
        said.append((done.returncode, done.stdout, done.stderr.replace(plugin.name, "PLUGIN")))

    engine.docker("run", "-d", "--name", "authz-play", IMAGE, "sleep", "1000", check=True)
    for method, uri, words in (
        ("AuthZReq", "/containers/json", ("ps",)),
        ("AuthZReq", "/containers/create", ("run", "--rm", IMAGE, "true")),
        ("AuthZReq", "/start", ("run", "--name", "authz-start", IMAGE, "true")),
        ("AuthZReq", "/attach", ("attach", "--no-stdin", "authz-play")),
        ("AuthZReq", "/exec", ("exec", "authz-play", "true")),
        ("AuthZReq", "/start", ("exec", "authz-play", "true")),
        ("AuthZReq", "/logs", ("logs", "authz-play")),
        ("AuthZRes", "/containers/authz-play/json", ("inspect", "--type", "container", "authz-play")),
        ("AuthZRes", "/volumes/create", ("volume", "create", "authz-volume")),
    ):
        plugin.judge = refuse(method, uri)
        play(*words)
    plugin.judge = judge
    play("volume", "ls", "-q")
    engine.docker("rm", "-f", "authz-play", "authz-start", check=True)
    engine.docker("volume", "rm", "authz-volume", check=True)
    return said


def test_what_is_refused_is_not_done_and_the_client_is_told_who_refused_it(box: CortenEngine, plugin: Plugin) -> None:
    said = scenario(box, plugin)
    denied = "authorization denied by plugin PLUGIN: not today"
    assert all(denied in error or "received 403" in error for _, _, error in said[:-1]), said  # the latter: of a stream
    assert said[-1][1] == "authz-volume\n", "an answer that is refused has been done"


@pytest.mark.slow
def test_dockerd_says_the_same() -> None:
    found = []
    for kind in ("corten", "dockerd"):
        with Plugin() as plugin, engine_with(plugin, kind) as engine:
            found.append(scenario(engine, plugin))
    assert found[0] == found[1]


def test_a_plugin_sees_bodies_that_are_json_and_no_secret(box: CortenEngine, plugin: Plugin) -> None:
    box.docker("create", "--name", "authz-seen", "--label", "a=b", IMAGE, "true", check=True)
    box.docker("rm", "authz-seen", check=True)
    (asked,) = plugin.asked("AuthZReq", "/containers/create")
    assert asked["RequestMethod"] == "POST"
    assert asked["RequestUri"].endswith("?name=authz-seen")
    assert body(asked)["Labels"] == {"a": "b"}
    assert asked["RequestHeaders"]["Content-Type"] == "application/json"
    (answered,) = plugin.asked("AuthZRes", "/containers/create")
    assert answered["ResponseStatusCode"] == 201
    assert len(body(answered, "ResponseBody")["Id"]) == 64
    api = Api(box.socket)
    secret = {"username": "u", "password": "hidden", "serveraddress": "127.0.0.1:1"}
    api.call("POST", "/auth", secret)
    connection = Connection(box.socket, 60)
    connection.request("GET", "/_ping", headers={"X-Registry-Auth": "hidden", "Authorization": "hidden"})
    assert connection.getresponse().status == 200
    connection.close()
    box.docker("cp", str(paths.REPOSITORY / "README.md"), f"{BOX}:/tmp/", check=True)
    (asked,) = plugin.asked("AuthZReq", "/auth")
    assert "RequestBody" not in asked
    (archive,) = plugin.asked("AuthZReq", "/archive")[-1:]
    assert "RequestBody" not in archive
    assert "hidden" not in json.dumps(plugin.seen)


def test_a_body_that_is_too_large_to_be_seen_is_not_done(box: CortenEngine, plugin: Plugin) -> None:
    large = {"Image": IMAGE, "Labels": {"a": "x" * (4 << 20)}}
    status, answer = Api(box.socket).call("POST", "/containers/create?name=authz-large", large)
    said = "request body too large for authorization plugin: size exceeds 4194304 bytes"
    assert (status, answer["message"]) == (500, said)
    assert box.docker("ps", "-aq", "--filter", "name=authz-large", check=True).stdout == ""


def test_streams_work_as_without_plugins(box: CortenEngine, plugin: Plugin) -> None:
    assert box.docker("exec", "-i", BOX, "cat", stdin="to and fro", check=True).stdout == "to and fro"
    assert box.docker("run", "--rm", "-i", IMAGE, "cat", stdin="again", check=True).stdout == "again"
    archive = box.docker("save", IMAGE, check=True)
    assert archive.stdout
    assert plugin.asked("AuthZRes", "/get")


def test_a_plugin_that_cannot_be_asked_lets_nothing_through_and_is_found_again(
    box: CortenEngine, plugin: Plugin
) -> None:
    plugin.judge = lambda method, asked: {"Allow": True, "Err": "out of order"}
    status, answer = Api(box.socket).call("GET", "/containers/json")
    assert status == 500
    assert answer["message"].startswith(f"plugin {plugin.name} failed with error: AuthZPlugin.AuthZReq: out of order")
    plugin.judge = lambda method, asked: {"Allow": True}
    plugin.stop()
    waiting = subprocess.Popen(
        [*box.netns.enter, "docker", "-H", box.host, "ps", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    plugin.start()
    out, error = waiting.communicate(timeout=60)
    assert (waiting.returncode, error) == (0, b""), error
    assert len(out.split()) == 1


def test_plugins_are_changed_by_a_reload_and_stand_in_info(box: CortenEngine, plugin: Plugin) -> None:
    def told() -> int:
        return len(re.findall("Reloaded configuration|configuration not reloaded", box.log.read_text()))

    def reload(*names: str) -> None:
        box.config_file.write_text(json.dumps({"authorization-plugins": names}))
        before = told()
        os.kill(box.pid, signal.SIGHUP)
        wait_for(lambda: told() > before, "reload")

    def plugins() -> Any:
        return json.loads(box.docker("info", "-f", "{{json .Plugins.Authorization}}", check=True).stdout)

    assert plugins() == [plugin.name]
    reload()
    plugin.seen.clear()
    assert plugins() is None
    assert plugin.seen == []
    reload("nobody-knows-it")
    assert "authorization-plugins: plugin nobody-knows-it not found: " in box.log.read_text()
    assert plugins() is None
    reload(plugin.name)
    assert plugins() == [plugin.name]
    assert plugin.asked("AuthZReq", "/info")


def refused_start(netns: NetNs, folder: Path, name: str) -> str:
    """What a cortend says that is to ask this plugin and cannot; nothing is left of it."""
    (folder / "daemon.json").write_text(json.dumps({"authorization-plugins": [name]}))
    argv = [*netns.enter, str(paths.COMMANDS / "cortend"), "--data-root", f"{folder}/d", "--exec-root", f"{folder}/e"]
    argv += ["--host", f"unix://{folder}/s", "--config", f"{folder}/daemon.json"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert sorted(path.name for path in folder.iterdir()) == ["daemon.json"]
    return done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody-knows-it", "authorization-plugins: plugin nobody-knows-it not found: neither "),
        ("../x", "authorization-plugins: '../x' is no name of a plugin"),
    ],
)
def test_cortend_does_not_start_without_its_plugin(netns: NetNs, tmp_path: Path, name: str, said: str) -> None:
    assert refused_start(netns, tmp_path, name).startswith(f"cortend: {said}")


def test_a_plugin_of_another_kind_is_none(netns: NetNs, tmp_path: Path) -> None:
    with Plugin(implements=("VolumeDriver",)) as other:
        said = f"cortend: authorization-plugins: plugin {other.name} implements ['VolumeDriver'], not authz\n"
        assert refused_start(netns, tmp_path, other.name) == said
