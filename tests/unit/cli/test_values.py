"""What the CLI may not import is the same as where it is ruled."""

from __future__ import annotations

import pytest

from corten.cli import flags, ports, units, values
from corten.cli.options import restart_policy
from corten.errors import InvalidArgument
from corten.launch.checks import IPC_SYSCTLS
from corten.spec.process import RLIMITS


def test_sysctls_are_those_that_the_launch_knows() -> None:
    for name in IPC_SYSCTLS:
        assert values.sysctl(f"{name}=1") == f"{name}=1"
    with pytest.raises(InvalidArgument, match=r"kernel.domainname=x' is not allowed"):
        values.sysctl("kernel.domainname=x")


def test_ulimits_are_the_kernels_but_the_one_that_docker_leaves_out() -> None:
    known = {name.removeprefix("RLIMIT_").lower() for name in RLIMITS}
    for name in known - {"as"}:
        assert values.ulimit(f"{name}=1:2") == {"Name": name, "Soft": 1, "Hard": 2}
    with pytest.raises(InvalidArgument, match="invalid ulimit type: as"):
        values.ulimit("as=1")


@pytest.mark.parametrize("text", ["inf", "nan", "1e5", "1_0", "", "²", "9" * 5000, "-1", "1ex", "--1"])
def test_a_size_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size: "):
        units.parse_bytes(text)


@pytest.mark.parametrize("text", ["1e999999999", "1/0", "inf", "²", "9" * 5000, "1_0"])
def test_a_number_of_cpus_that_is_none_is_refused_at_once(text: str) -> None:
    with pytest.raises(InvalidArgument, match="as a rational number"):
        values.cpus(text)


@pytest.mark.parametrize("text", ["1.2.3s", "s", "", "1", "1s ", "1_0s", "9" * 30 + "h"])
def test_a_duration_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^time: (missing unit in|invalid) duration "):
        units.parse_duration_ns(text)


def test_a_microsecond_is_written_with_either_of_unicodes_two_letters() -> None:
    assert [units.parse_duration_ns(f"1.5{unit}") for unit in ("us", "\u00b5s", "\u03bcs")] == [1500] * 3


@pytest.mark.parametrize(
    ("text", "count"),
    [("on-failure:+3", 3), ("on-failure:-3", -3), ("on-failure:" + "0" * 30 + "3", 3), ("on-failure:", 0)],
)
def test_a_retry_count_is_read_as_go_reads_numbers(text: str, count: int) -> None:
    assert restart_policy(text) == {"Name": "on-failure", "MaximumRetryCount": count}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (":3", "no policy provided before colon"),
        (":", "no policy provided before colon"),
        *(
            (f"on-failure:{count}", "maximum retry count must be an integer")
            for count in ("x", "²", "3:", "+", 1 << 63)
        ),
    ],
)
def test_a_restart_policy_that_is_none_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^invalid restart policy format: {why}$"):
        restart_policy(text)


@pytest.mark.parametrize("text", ["²", "80:²", "80-²", "9" * 5000])
def test_a_port_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"invalid containerPort: |invalid hostPort: "):
        ports.parse_ports([text])


def test_what_a_terminal_would_obey_is_shown_in_an_error() -> None:
    assert flags.quoted('a"\\\x1b[m\n\udcff\u202e') == r'"a\"\\\x1b[m\n\xff\u202e"'
