"""daemon.json: Docker's keys, refusals by name, reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from corten.daemon import arguments, config, legacy
from corten.daemon.registries import PROXIES
from corten.engine.settings import Runtime
from corten.errors import InvalidArgument

PATH = "/etc/corten/daemon.json"


def refused(file: dict[str, Any], flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(InvalidArgument) as caught:
        config.settings(PATH, file, flags or {})
    return caught.value.text


def test_without_file_and_flags_everything_is_a_default() -> None:
    made = config.settings(PATH, {}, {})
    assert made.data_root == "/var/lib/corten"
    assert made.hosts == ("unix:///run/corten/corten.sock",)
    assert made.default_pids_limit == 500
    assert list(made.runtimes) == ["corten"]
    assert made.origin("debug") == "built-in"


def test_values_know_where_they_are_from() -> None:
    made = config.settings(PATH, {"default-pids-limit": 7, "debug": True}, {"data-root": "/d"})
    assert (made.default_pids_limit, made.debug, made.data_root) == (7, True, "/d")
    assert [made.origin(key) for key in ("default-pids-limit", "data-root")] == ["daemon.json", "flag"]


def test_runtimes_are_added_to_the_built_in_one() -> None:
    file = {"runtimes": {"crun": {"path": "/usr/bin/crun", "runtimeArgs": ["--x"]}}, "default-runtime": "crun"}
    made = config.settings(PATH, file, {})
    assert made.runtimes["crun"] == Runtime("crun", "/usr/bin/crun", ("--x",))
    assert set(made.runtimes) == {"corten", "crun"}
    assert made.default_runtime == "crun"


@pytest.mark.parametrize("key", sorted(legacy.ABSENT))
def test_a_key_of_a_part_that_corten_has_none_of_says_why(key: str) -> None:
    assert f"{key} is not supported: " in refused({key: "x"})


@pytest.mark.parametrize("key", sorted(config.UNSUPPORTED))
def test_a_key_that_dockerd_knows_is_refused_by_name(key: str) -> None:
    assert refused({key: "x"}) == f"unable to configure the daemon with file {PATH}: {key} is not supported yet"


def test_unknown_keys_are_refused_by_name() -> None:
    text = refused({"foo": 1, "bar": 2, "debug": True})
    assert text.endswith("the following directives don't match any configuration option: foo, bar")


def test_a_flag_and_a_key_for_the_same_are_refused() -> None:
    text = refused({"debug": True, "hosts": ["unix:///a"]}, {"debug": True, "hosts": ("unix:///b",)})
    assert text.endswith(
        "the following directives are specified both as a flag and in the configuration file: "
        "debug: (from flag: true, from file: true), hosts: (from flag: [unix:///b], from file: [unix:///a])"
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ({"debug": "yes"}, "debug: not true or false"),
        ({"hosts": "unix:///x"}, "hosts: not a list of strings"),
        ({"hosts": ["npipe://"]}, "hosts: 'npipe://': only unix://, tcp:// and fd:// are supported"),
        ({"tlsverify": "yes"}, "tlsverify: not true or false"),
        ({"default-pids-limit": 0}, "default-pids-limit: not a number above 0, or -1 for no limit"),
        ({"default-pids-limit": True}, "default-pids-limit: not a number above 0, or -1 for no limit"),
        ({"default-runtime": "nope"}, "specified default runtime 'nope' does not exist"),
        ({"runtimes": {"x": {}}}, "runtimes.x: either a runtimeType or a path must be configured"),
        ({"runtimes": {"x": {"runtimeType": "y"}}}, "runtimes.x.runtimeType is not supported yet"),
        ({"runtimes": {"corten": {"path": "/x"}}}, "runtimes: runtime name 'corten' is reserved"),
        ({"live-restore": False}, "live-restore: false is not supported: containers always outlive the daemon"),
        ({"default-ulimits": []}, "default-ulimits: not an object"),
        ({"default-ulimits": {"core": 1}}, "default-ulimits.core: not an object with Name, Soft and Hard"),
        ({"default-ulimits": {"core": {"Soft": "1"}}}, "default-ulimits.core: not an object with Name, Soft and Hard"),
        ({"default-ulimits": {"core": {"X": 1}}}, "default-ulimits.core.X: unknown field"),
        ({"default-ulimits": {"x": {}}}, "default-ulimits.x: 'x' is not the name of this limit"),
        ({"default-ulimits": {"nofile": {}, "NOFILE": {}}}, "default-ulimits.NOFILE: the same limit as 'nofile'"),
        ({"default-ulimits": {"core": {"Name": "cpu"}}}, "default-ulimits.core: 'cpu' is not the name of this limit"),
        (
            {"default-ulimits": {"core": {"Soft": -1, "Hard": 5}}},
            "default-ulimits.core: soft limit must not exceed hard limit",
        ),
        ({"log-driver": "splunk"}, "HostConfig.LogConfig: log driver splunk is not supported yet"),
        ({"log-opts": {"foo": "x"}}, "unknown log opt 'foo' for json-file log driver"),
    ],
)
def test_wrong_values_are_refused_with_their_key(file: dict[str, Any], text: str) -> None:
    assert refused(file) == f"unable to configure the daemon with file {PATH}: {text}"


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "x.json")
    assert config.load(missing, is_required=False) == {}
    with pytest.raises(InvalidArgument, match="no such file or directory"):
        config.load(missing, is_required=True)


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("[]", "{", "1"):
        path.write_text(text)
        with pytest.raises(InvalidArgument, match="unable to configure the daemon with file"):
            config.load(str(path), is_required=True)
    path.write_text("  \n")
    assert config.load(str(path), is_required=True) == {}


def test_a_reload_takes_over_what_docker_reloads_and_nothing_else() -> None:
    before = config.settings(PATH, {}, {"data-root": "/d"})
    after = config.settings(PATH, {"debug": True, "data-root": "/other", "default-pids-limit": 9}, {})
    made = config.reloaded(before, after)
    assert (made.debug, made.default_pids_limit, made.data_root) == (True, 9, "/d")
    assert made.origin("debug") == "daemon.json"
    assert made.origin("data-root") == "flag"


def test_the_whole_configuration_is_one_line_of_json() -> None:
    text = config.shown(config.settings(PATH, {"registry-mirrors": ["https://mirror.example"]}, {}))
    shown = msgspec.json.decode(text)
    ignored = {"api-cors-header", "deprecated-key-path"}
    assert set(shown) == (set(config.KEYS) - set(PROXIES) - ignored) | {"proxies"}
    assert shown["registry-mirrors"] == ["https://mirror.example/"]
    assert "\n" not in text


def test_flags_are_named_as_keys() -> None:
    given = arguments.parse(["--data-root", "/d", "-H", "unix:///a", "--host", "unix:///b", "--debug"])
    assert arguments.flags(given) == {"data-root": "/d", "hosts": ("unix:///a", "unix:///b"), "debug": True}
    assert arguments.flags(arguments.parse([])) == {}


def node_file(folder: Path, text: str) -> str:
    path = folder / "runtime.json"
    path.write_text(text)
    return str(path)


def test_the_nodes_file_says_what_daemon_json_does_not(tmp_path: Path) -> None:
    path = node_file(tmp_path, '{"default-pids-limit": 7, "masked-paths": ["/proc/kallsyms"]}')
    node = config.node_defaults(path)
    made = config.with_node(config.settings(PATH, {}, {}), node)
    assert (made.default_pids_limit, made.origin("default-pids-limit")) == (7, path)
    assert made.node is not None
    assert (made.node.masked_paths, made.node.origin) == (("/proc/kallsyms",), path)
    first = config.with_node(config.settings(PATH, {"default-pids-limit": 8}, {}), node)
    assert (first.default_pids_limit, first.origin("default-pids-limit")) == (8, "daemon.json")
    assert msgspec.json.decode(config.shown(made))[path] == {"masked-paths": ["/proc/kallsyms"]}


def test_a_nodes_file_that_nobody_named_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "NODE_FILE", str(tmp_path / "nowhere"))
    plain = config.settings(PATH, {}, {})
    assert config.with_node(plain, config.node_defaults("")) == plain
    with pytest.raises(InvalidArgument, match=f"config {tmp_path}/there does not exist"):
        config.node_defaults(str(tmp_path / "there"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"masked": []}', "{path}: unknown key 'masked'"),
        ('{"default-pids-limit": 0}', "{path}: default-pids-limit: 0 is neither a number of processes nor -1"),
        (
            '{"seccomp": [{"names": ["mkdir"], "action": "SCMP_ACT_NO"}]}',
            "{path}.seccomp[0].action: 'SCMP_ACT_NO' is not supported",
        ),
    ],
)
def test_a_nodes_file_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = node_file(tmp_path, text)
    with pytest.raises(InvalidArgument) as caught:
        config.node_defaults(path)
    assert caught.value.text == f"unable to configure the daemon with node defaults: {why.format(path=path)}"


def test_a_nodes_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"unable to configure the daemon with file .*: is a directory"):
        config.node_defaults(str(tmp_path))


def test_a_reload_takes_over_the_nodes_words(tmp_path: Path) -> None:
    plain = config.settings(PATH, {}, {})
    path = node_file(tmp_path, '{"default-pids-limit": 7, "masked-paths": ["/proc/kallsyms"]}')
    made = config.reloaded(plain, config.with_node(plain, config.node_defaults(path)))
    assert made.node is not None
    assert (made.default_pids_limit, made.origin("default-pids-limit")) == (7, path)
    back = config.reloaded(made, plain)
    assert (back.node, back.default_pids_limit, back.origin("default-pids-limit")) == (None, 500, "built-in")


def test_ulimits_are_read_as_docker_writes_them() -> None:
    file = {"default-ulimits": {"core": {"Name": "core", "Soft": 5, "Hard": -1}, "nproc": {"Soft": 1, "Hard": 2}}}
    made = config.settings(PATH, file, {})
    assert [(one.name, one.soft, one.hard) for one in made.default_ulimits.values()] == [
        ("core", 5, -1),
        ("nproc", 1, 2),
    ]
    shown = msgspec.json.decode(config.shown(made))["default-ulimits"]
    assert shown["core"] == {"Name": "core", "Soft": 5, "Hard": -1}
