"""Options of log drivers: what is refused at create, what at the start, what becomes of them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from corten.engine import logconfig, logoptions, logtag
from corten.engine.logconfig import Identity
from corten.errors import Internal, InvalidArgument

from .conftest import Decide

BOX = Identity("a1" * 32, "box", "sha256:" + "b2" * 32, "busybox:1", 1_700_000_000_000_000_000)

# (driver, options, what dockerd 26.1 answers)
REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("nope", {}, 'error looking up logging plugin nope: plugin "nope" not found'),
    ("awslogs", {}, "HostConfig.LogConfig: log driver awslogs is not supported yet"),
    ("json-file", {"foo": "x"}, "unknown log opt 'foo' for json-file log driver"),
    ("json-file", {"mode": "x"}, "logger: logging mode not supported: x"),
    (
        "json-file",
        {"max-buffer-size": "1m"},
        "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
    ),
    (
        "json-file",
        {"mode": "non-blocking", "max-buffer-size": "x"},
        "error parsing option max-buffer-size: invalid size: 'x'",
    ),
    ("json-file", {"cache-disabled": "x"}, "invalid value for option cache-disabled: x"),
    ("local", {"labels": "x"}, "unknown log opt 'labels' for log driver local"),
    ("journald", {"max-size": "1m"}, "unknown log opt 'max-size' for journald log driver"),
    ("syslog", {"gelf-address": "x"}, "unknown log opt 'gelf-address' for syslog log driver"),
    ("syslog", {"syslog-address": "http://x"}, "unsupported scheme: 'http'"),
    ("syslog", {"syslog-address": "unix:///nonexistent/x"}, "stat /nonexistent/x: no such file or directory"),
    (
        "syslog",
        {"syslog-address": "1.2.3.4:514"},
        'parse "1.2.3.4:514": first path segment in URL cannot contain colon',
    ),
    ("syslog", {"syslog-facility": "nope"}, "invalid syslog facility"),
    ("syslog", {"syslog-facility": "24"}, "invalid syslog facility"),
    ("syslog", {"syslog-format": "nope"}, "Invalid syslog format"),
    ("gelf", {}, "gelf-address is a required parameter"),
    ("gelf", {"gelf-address": "http://x:1"}, "gelf: endpoint needs to be TCP or UDP"),
    ("gelf", {"gelf-address": "udp://x"}, "gelf: please provide gelf-address as proto://host:port"),
    ("gelf", {"gelf-address": "udp://x:1", "y": ""}, 'unknown log opt "y" for gelf log driver'),
    (
        "gelf",
        {"gelf-address": "tcp://x:1", "gelf-compression-type": "gzip"},
        "compression is only supported on UDP",
    ),
    (
        "gelf",
        {"gelf-address": "udp://x:1", "gelf-compression-level": "10"},
        'unknown value "10" for log opt "gelf-compression-level" for gelf log driver',
    ),
    (
        "gelf",
        {"gelf-address": "udp://x:1", "gelf-tcp-max-reconnect": "1"},
        '"gelf-tcp-max-reconnect" is only valid for TCP',
    ),
    (
        "gelf",
        {"gelf-address": "tcp://x:1", "gelf-tcp-max-reconnect": "-1"},
        '"gelf-tcp-max-reconnect" must be a positive integer',
    ),
    ("fluentd", {"x": ""}, "unknown log opt 'x' for fluentd log driver"),
    (
        "fluentd",
        {"fluentd-address": "udp://x"},
        "invalid fluentd-address (udp://x): unsupported scheme: 'udp'",
    ),
    (
        "fluentd",
        {"fluentd-address": "tcp://x/y"},
        "invalid fluentd-address (tcp://x/y): should not contain a path element",
    ),
    (
        "fluentd",
        {"fluentd-address": "x:99999"},
        'invalid fluentd-address (x:99999): invalid port: strconv.ParseUint: parsing "99999": value out of range',
    ),
    ("fluentd", {"fluentd-buffer-limit": "x"}, "invalid size: 'x'"),
    ("fluentd", {"fluentd-retry-wait": "x"}, 'time: invalid duration "x"'),
    ("fluentd", {"fluentd-max-retries": "-1"}, 'strconv.ParseUint: parsing "-1": invalid syntax'),
    ("fluentd", {"fluentd-async": "x"}, 'strconv.ParseBool: parsing "x": invalid syntax'),
    (
        "fluentd",
        {"fluentd-async": "1", "fluentd-async-connect": "1"},
        "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect",
    ),
    (
        "fluentd",
        {"fluentd-async-reconnect-interval": "1ms"},
        'invalid value for fluentd-async-reconnect-interval: value ("1ms") must be between 100ms and 10s',
    ),
]


@pytest.mark.parametrize(("driver", "options", "text"), REFUSED, ids=[f"{row[0]} {row[1]}" for row in REFUSED])
def test_a_wrong_option_is_refused_in_dockers_words(driver: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        logoptions.check(driver, options)
    assert caught.value.text == text


TAKEN: list[tuple[str, dict[str, str]]] = [
    ("none", {"whatever": "x"}),
    ("json-file", {"max-size": "1m", "cache-max-size": "1m", "mode": "non-blocking", "max-buffer-size": "4m"}),
    ("syslog", {"syslog-address": "udp://h", "syslog-facility": "local7", "syslog-format": "rfc5424micro"}),
    ("syslog", {"syslog-address": "tcp+tls://[::1]:6514", "syslog-facility": "0"}),
    ("gelf", {"gelf-address": "udp://h:12201", "gelf-compression-type": "zlib", "gelf-compression-level": "-1"}),
    ("fluentd", {"fluentd-address": "tls://h", "fluentd-retry-wait": "1s", "fluentd-buffer-limit": "8m"}),
    ("journald", {"tag": "{{.Name}}", "labels-regex": "^a"}),
]


@pytest.mark.parametrize(("driver", "options"), TAKEN)
def test_options_of_each_driver_are_taken(driver: str, options: dict[str, str]) -> None:
    logoptions.check(driver, options)


def asked(decide: Decide, driver: str, options: dict[str, str], **config: Any) -> Any:
    return decide(HostConfig={"LogConfig": {"Type": driver, "Config": options}}, **config)


def test_a_log_is_rotated_by_default_and_says_so(decide: Decide) -> None:
    made = decide()
    assert made.host.log_config.config == {"max-size": "20m", "max-file": "5", "compress": "true"}
    assert made.origins["HostConfig.LogConfig.Config"] == "built-in"
    request = logconfig.request(made, BOX, "/d")
    assert (request.max_size, request.max_files, request.compress) == (20_000_000, 5, True)


@pytest.mark.parametrize("options", [{"max-size": "1m"}, {"max-file": "1"}, {"compress": "false"}])
def test_who_says_anything_of_rotation_gets_dockers_meaning_of_it(decide: Decide, options: dict[str, str]) -> None:
    made = asked(decide, "json-file", options)
    assert made.host.log_config.config == options
    request = logconfig.request(made, BOX, "/d")
    assert request.max_files == 1
    assert request.max_size == (1_000_000 if "max-size" in options else -1)
    assert not request.compress


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_a_file_of_a_container_that_does_not_wait_is_written_by_a_courier(
    decide: Decide, driver: str, tmp_path: Path
) -> None:
    plain = logconfig.request(asked(decide, driver, {"max-size": "1m", "mode": "blocking"}), BOX, str(tmp_path))
    assert plain.courier is None
    options = {"max-size": "1m", "mode": "non-blocking"}
    request = logconfig.request(asked(decide, driver, options), BOX, str(tmp_path))
    assert (request.driver, request.path) == ("none", "")
    assert request.courier == {"driver": "file", "limit": 1_000_000, "log": plain.to_message()}
    limited = asked(decide, driver, {**options, "max-buffer-size": "64k"})
    courier = logconfig.request(limited, BOX, str(tmp_path)).courier
    assert courier is not None
    assert courier["limit"] == 65536


def test_other_options_keep_the_default_rotation(decide: Decide) -> None:
    made = asked(decide, "json-file", {"labels": "a"}, Labels={"a": "1"})
    assert made.host.log_config.config == {"labels": "a", "max-size": "20m", "max-file": "5", "compress": "true"}
    assert made.origins["HostConfig.LogConfig.Config"] == "flag, built-in"


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("json-file", {"max-size": "x"}, "invalid size: 'x'"),
        ("json-file", {"max-size": "-1k"}, "invalid size: '-1k'"),
        ("json-file", {"max-size": "inf"}, "invalid size: 'inf'"),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("json-file", {"max-file": "9" * 30}, f'strconv.Atoi: parsing "{"9" * 30}": value out of range'),
        ("json-file", {"compress": "x"}, 'strconv.ParseBool: parsing "x": invalid syntax'),
        (
            "json-file",
            {"compress": "true"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        ("json-file", {"tag": "{{.Nope}}"}, "template: log-tag:1:2: executing"),
        ("json-file", {"labels-regex": "("}, "error parsing regexp: missing closing ): `(`"),
        ("local", {"max-size": "x"}, "invalid value for max-size: x: invalid size: 'x'"),
        ("local", {"max-file": "x"}, 'invalid value for max-file: x: strconv.Atoi: parsing "x": invalid syntax'),
        ("local", {"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
        (
            "local",
            {"compress": "x"},
            'error reading compress log option: strconv.ParseBool: parsing "x": invalid syntax',
        ),
        ("syslog", {"cache-max-file": "1"}, "compression cannot be enabled when max file count is 1"),
    ],
)
def test_what_drivers_refuse_fails_the_start(
    decide: Decide, tmp_path: Path, driver: str, options: dict[str, str], text: str
) -> None:
    made = asked(decide, driver, options)
    with pytest.raises(Internal) as caught:
        logconfig.request(made, BOX, str(tmp_path))
    start = "failed to create task for container: failed to initialize logging driver: "
    assert caught.value.text.startswith(start + text)


@pytest.mark.parametrize(("text", "size"), [("10", 10), ("10k", 10_000), ("1MiB", 10**6), ("1.5g", 15 * 10**8)])
def test_sizes_count_in_thousands(text: str, size: int) -> None:
    assert logoptions.rotation({"max-size": text}) == (size, 1, False)


def test_attributes_are_those_that_are_named_or_match(decide: Decide) -> None:
    options = {"labels": "a,nope", "labels-regex": "^c", "env": "Y", "env-regex": "Z$"}
    made = asked(
        decide, "json-file", options, Labels={"a": "1", "b": "2", "cc": "3"}, Env=["X=3", "Y=4", "AZ=a=b", "ODD"]
    )
    assert logconfig.request(made, BOX, "/d").attributes == {"a": "1", "cc": "3", "Y": "4", "AZ": "a=b"}


def test_a_tag_stands_among_the_attributes_when_it_is_asked_for(decide: Decide) -> None:
    made = asked(decide, "json-file", {"tag": "{{.Name}}/{{.ID}}"})
    assert logconfig.request(made, BOX, "/d").attributes == {"tag": "box/a1a1a1a1a1a1"}


TAGS = [
    ("plain", "plain"),
    ("{{.ID}}", "a1a1a1a1a1a1"),
    ("{{ .Name }}-{{.ImageName}}", "box-busybox:1"),
    ("{{.ImageID}} {{.DaemonName}}", "sha256:b2b2b docker"),
    ("{{upper .Name}}{{.Name | title}}", "BOXBox"),
    ("{{truncate .FullID 4}}[{{pad .Name 1 2}}]", "a1a1[ box  ]"),
    ('{{index .ContainerLabels "a"}}{{(.ExtraAttributes nil).a}}', "11"),
    ("x {{- .Name -}} y", "xboxy"),
    ("{{.ContainerLabels.a}}{{.ContainerLabels.b}}", "1<no value>"),
    ("{{json .ContainerLabels}}", '{"a":"1"}'),
]


@pytest.mark.parametrize(("template", "tag"), TAGS)
def test_tags_are_templates(decide: Decide, template: str, tag: str) -> None:
    made = asked(decide, "syslog", {"tag": template, "labels": "a"}, Labels={"a": "1"})
    courier = logconfig.request(made, BOX, "/d").courier
    assert courier is not None
    assert courier["tag"] == tag


@pytest.mark.parametrize(
    "template",
    [
        "{{",
        "{{}}",
        "{{nope .ID}}",
        "{{.ID",
        "{{range .Args}}{{end}}",
        "{{.ID .ID}}",
        "{{pad .ID 9999 9999}}",
        r'{{upper "\x41"}}',
    ],
)
def test_what_is_no_tag_is_refused(template: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^template: log-tag:1:"):
        logtag.render(template, {"ID": "x"})


def test_a_remote_driver_keeps_its_output_beside_unless_told_not_to(decide: Decide) -> None:
    kept = asked(decide, "gelf", {"gelf-address": "udp://127.0.0.1:1"})
    request = logconfig.request(kept, BOX, "/d")
    assert (request.driver, request.path, request.max_size) == ("local", "/d/container-cached.log", 20 << 20)
    assert request.courier is not None
    assert request.courier["address"] == ("udp", "127.0.0.1", 1)
    assert request.courier["limit"] == -1
    options = {"gelf-address": "udp://127.0.0.1:1", "cache-disabled": "true", "mode": "non-blocking"}
    alone = asked(decide, "gelf", options)
    request = logconfig.request(alone, BOX, "/d")
    assert (request.driver, request.path) == ("none", "")
    assert request.courier is not None
    assert request.courier["limit"] == 1_000_000
    assert logconfig.place(alone, "/d", BOX.id) is None


@pytest.mark.parametrize(
    ("options", "limit"),
    [({}, -1), ({"fluentd-async": "true"}, 1 << 20), ({"fluentd-async": "1", "fluentd-buffer-limit": "8k"}, 8192)],
)
def test_fluentd_that_is_asynchronous_holds_up_nobody(decide: Decide, options: dict[str, str], limit: int) -> None:
    courier = logconfig.request(asked(decide, "fluentd", options), BOX, "/d").courier
    assert courier is not None
    assert courier["limit"] == limit


def test_names_for_the_journal_are_capitals() -> None:
    assert logconfig.journal_name("_com.example/x1") == "COM_EXAMPLE_X1"


def test_a_socket_for_syslog_is_taken_when_it_is_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "s"))
        logoptions.check("syslog", {"syslog-address": f"unixgram://{tmp_path}/s"})
