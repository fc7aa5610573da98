"""Keys of daemon.json that dockerd has for itself, and those about names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from corten.daemon import config, legacy, resolving
from corten.engine import realtime
from corten.engine.settings import Settings
from corten.errors import Internal, InvalidArgument

PATH = "/etc/corten/daemon.json"


def settings(**file: Any) -> Settings:
    return config.settings(PATH, {key.replace("_", "-"): value for key, value in file.items()}, {})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ({"dns": ["x"]}, "dns: invalid IP address: x"),
        ({"dns": "192.0.2.1"}, "dns: not a list of strings"),
        ({"dns-search": ["a b"]}, "dns-search: a b is not a valid domain"),
        ({"dns-search": [""]}, "dns-search:  is not a valid domain"),
        ({"dns-search": ["a" * 256]}, "is not a valid domain"),
        ({"host-gateway-ip": "x"}, "host-gateway-ip: invalid IP address: x"),
        ({"host-gateway-ips": ["192.0.2.1", "192.0.2.2"]}, "only one IPv4 host gateway IP address can be specified"),
        ({"host-gateway-ips": ["::1", "::2"]}, "only one IPv6 host gateway IP address can be specified"),
        (
            {"host-gateway-ip": "192.0.2.1", "host-gateway-ips": []},
            "host-gateway-ip and host-gateway-ips must not both be specified in the config file",
        ),
        ({"api-cors-header": "*"}, legacy.CORS_REMOVED),
        ({"features": {"cdi": "x"}}, "features: not an object with true or false"),
        (
            {"features": {"windows-dns-proxy": True}},
            "feature option 'windows-dns-proxy' is only available on Windows",
        ),
        ({"min-api-version": ""}, "min-api-version: value is empty"),
        ({"min-api-version": "v1.44"}, 'API version must be provided without "v" prefix'),
        ({"min-api-version": "1.39"}, "minimum supported API version is 1.40: 1.39"),
        ({"min-api-version": "1.99"}, "maximum supported API version is 1.51: 1.99"),
        ({"min-api-version": "x"}, "'x' is not an API version"),
        ({"cpu-rt-period": "x"}, "cpu-rt-period: not a number of microseconds"),
        ({"oom-score-adjust": -500}, "don't match any configuration option: oom-score-adjust"),
        ({"cluster-store": "x"}, "don't match any configuration option: cluster-store"),
        ({"containerd-plugin-namespace": "x"}, "don't match any configuration option: containerd-plugin-namespace"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(file: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        config.settings(PATH, file, {})
    assert text in caught.value.text
    assert "\n" not in caught.value.text


def test_what_dockerd_ignores_is_taken_and_told() -> None:
    made = settings(
        **{"deprecated-key-path": 7, "api-cors-header": "", "selinux-enabled": True},
        allow_nondistributable_artifacts=["x"],
        features={"cdi": True, "of-tomorrow": True},
    )
    said = legacy.warnings(made)
    assert said[0] == "Docker could not enable SELinux on the host system"
    assert [text.split()[0] for text in said[1:]] == ["allow-nondistributable-artifacts", "features:"]
    assert "of-tomorrow" in said[-1]
    assert "cdi" not in said[-1]


def test_the_old_name_of_the_gateway_is_the_new_one_s() -> None:
    made = settings(host_gateway_ip="192.0.2.1")
    assert (made.host_gateway_ips, made.origin("host-gateway-ips")) == (("192.0.2.1",), "daemon.json")
    with pytest.raises(InvalidArgument, match=r"both as a flag and in the configuration file: host-gateway-ip: "):
        resolving.migrated({"host-gateway-ip": "192.0.2.1"}, {"host-gateway-ips": ["192.0.2.2"]})


def test_the_oldest_version_may_be_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(legacy.MIN_API_VARIABLE, "1.44")
    assert settings().min_api_version == "1.44"
    assert settings(min_api_version="1.45").min_api_version == "1.45"
    monkeypatch.setenv(legacy.MIN_API_VARIABLE, "1.2")
    with pytest.raises(
        InvalidArgument, match=r"^invalid DOCKER_MIN_API_VERSION: minimum supported API version is 1.40"
    ):
        settings()


def test_a_sighup_takes_features_over() -> None:
    after = config.reloaded(settings(dns=["192.0.2.1"]), settings(features={"cdi": False}, dns=["192.0.2.2"]))
    assert (after.features, after.dns) == ({"cdi": False}, ("192.0.2.1",))


def test_real_time_is_written_from_the_root_down(tmp_path: Path) -> None:
    info = tmp_path / "mountinfo"
    info.write_text(f"30 20 0:26 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n")
    made = settings(cpu_rt_period=1000000, cpu_rt_runtime=950000)
    realtime.prepare(made, "/corten-x/id", str(info))
    assert (tmp_path / "cpu/corten-x/cpu.rt_period_us").read_text() == "1000000"
    assert (tmp_path / "cpu/corten-x/cpu.rt_runtime_us").read_text() == "950000"
    assert not (tmp_path / "cpu/corten-x/id").exists()
    realtime.prepare(settings(), "/corten-y/id", "/nowhere")  # silent: nothing is looked at


def test_real_time_that_the_kernel_does_not_have_is_told(tmp_path: Path) -> None:
    info = tmp_path / "mountinfo"
    info.write_text("30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    with pytest.raises(Internal, match="unable to init CPU RT controller: mountpoint for cpu not found"):
        realtime.prepare(settings(cpu_rt_period=1), "/corten-x/id", str(info))
    info.write_text(f"30 20 0:26 / {tmp_path}/file rw - cgroup cgroup rw,cpu\n")
    (tmp_path / "file").write_text("")
    with pytest.raises(Internal, match=r"unable to init CPU RT controller: open .*/file/corten-x: not a directory"):
        realtime.prepare(settings(cpu_rt_period=1), "/corten-x/id", str(info))
