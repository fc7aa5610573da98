"""Small tables: signals, names, restart policies, error texts, ps, devices."""

from __future__ import annotations

import re

import pytest

from corten.engine import devices, launcherrors, names
from corten.engine.host import parse_list
from corten.engine.restart import Backoff, should_restart
from corten.engine.signals import parse_signal
from corten.engine.top import parse
from corten.errors import CortenError, Internal, InvalidArgument
from corten.spec.docker import DeviceMapping, RestartPolicy


@pytest.mark.parametrize(
    ("text", "number"), [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("15", 15), ("RTMIN+3", 37), ("RTMAX", 64)]
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["FOO", "0", "+x", ""])
def test_unknown_signals_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"^invalid signal: {re.escape(text)}$"):
        parse_signal(text)


@pytest.mark.parametrize("text", ["65", "-1", "32"])
def test_numbers_of_no_signal_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^the linux daemon does not support signal {text}$"):
        parse_signal(text)


def test_a_random_name_is_free_and_valid() -> None:
    seen: set[str] = set()
    for _ in range(100):
        name = names.random_name(seen.__contains__)
        assert name not in seen
        assert names.NAME_PATTERN.match(name)
        seen.add(name)


def test_a_taken_name_gets_a_digit() -> None:
    assert names.random_name(lambda name: not name[-1].isdigit())[-1].isdigit()


def policy(name: str, count: int = 0) -> RestartPolicy:
    return RestartPolicy(name=name, maximum_retry_count=count)


@pytest.mark.parametrize(
    ("name", "count", "code", "restarts", "by_user", "again"),
    [
        ("no", 0, 1, 1, False, False),
        ("always", 0, 0, 0, True, True),
        ("unless-stopped", 0, 0, 0, False, True),
        ("unless-stopped", 0, 0, 0, True, False),
        ("on-failure", 0, 0, 0, False, False),
        ("on-failure", 0, 1, 50, False, True),
        ("on-failure", 2, 1, 1, False, True),
        ("on-failure", 2, 1, 2, False, False),
    ],
)
def test_restart_policies(name: str, count: int, code: int, restarts: int, by_user: bool, again: bool) -> None:
    assert should_restart(policy(name, count), code, restarts=restarts, stopped_by_user=by_user) is again


def test_the_delay_doubles_to_a_minute_and_a_long_run_resets_it() -> None:
    backoff = Backoff()
    assert [backoff.next_delay(0) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    assert [backoff.next_delay(0) for _ in range(20)][-1] == 60.0
    assert backoff.next_delay(11) == 0.1


@pytest.mark.parametrize(
    ("said", "code", "kind"),
    [
        ('exec: "x": executable file not found in $PATH', 127, InvalidArgument),
        ('exec: "/x": stat /x: no such file or directory', 127, InvalidArgument),
        ('exec: "/etc/passwd": permission denied', 126, InvalidArgument),
        ('exec: "/bin": is a directory', 126, InvalidArgument),
        ("something else", 128, Internal),
    ],
)
def test_what_a_runtime_says_decides_the_code(said: str, code: int, kind: type[CortenError]) -> None:
    error, found = launcherrors.start_error(Internal(said))
    assert (found, type(error)) == (code, kind)
    assert error.text.startswith("failed to create task for container: failed to create shim task: OCI runtime create")
    assert error.text.endswith(f"{said}: unknown")


def test_a_directory_on_a_file_has_dockers_hint() -> None:
    error, code = launcherrors.start_error(Internal("mount /a on /b: not a directory"))
    assert "Are you trying to mount a directory onto a file" in error.text
    assert code == 127


def test_ps_rows_are_the_containers_and_keep_their_command() -> None:
    output = "UID   PID CMD\nroot    1 init\nroot   42 sh -c  x y\n"
    assert parse(output, {42}) == {"Titles": ["UID", "PID", "CMD"], "Processes": [["root", "42", "sh -c  x y"]]}
    with pytest.raises(Internal, match=r"^Couldn't find PID field in ps output$"):
        parse("COMMAND\nx\n", {1})


def test_a_device_has_its_numbers_and_a_rule() -> None:
    nodes, rules = devices.mapped(
        DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/x", cgroup_permissions="r")
    )
    assert (nodes[0]["path"], nodes[0]["type"], nodes[0]["major"], nodes[0]["minor"]) == ("/dev/x", "c", 1, 3)
    assert rules == [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"}]


def test_a_missing_device_is_refused_in_dockers_words() -> None:
    with pytest.raises(Internal) as caught:
        devices.mapped(DeviceMapping(path_on_host="/dev/nope"))
    text = 'error gathering device information while adding custom device "/dev/nope": no such file or directory'
    assert caught.value.text == text


def test_device_rules_have_wildcards() -> None:
    assert devices.cgroup_rules(["c 13:* rwm"]) == [{"allow": True, "type": "c", "access": "rwm", "major": 13}]
    with pytest.raises(Internal, match=r"^invalid device cgroup rule format: 'foo'$"):
        devices.cgroup_rules(["foo"])


def test_processors_that_nobody_has_are_not_counted() -> None:
    with pytest.raises(OverflowError, match="value of out range, maximum is 8192"):
        parse_list("0-99999999999")


@pytest.mark.parametrize("text", ["1-0", " 0", "0 ", "0,", ",", "-1", "0-", "+1", "1_0", "\u0661", "0-1:2", ""])
def test_a_list_of_the_kernel_is_strict(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_list(text)


def test_a_list_of_the_kernel_has_single_numbers_and_ranges() -> None:
    assert parse_list("0-2,4,04") == {0, 1, 2, 4}
