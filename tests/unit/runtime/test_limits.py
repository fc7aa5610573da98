"""Limits on the command line of `update`: runc's numbers, sizes and sentences."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corten.errors import InvalidArgument
from corten.runtime import args, cold, limits
from corten.runtime.log import Log
from corten.spec.resources import Resources

NINES = "9" * 24


def parsed(line: str) -> Resources:
    options = args.parse(["corten-runtime", "update", *line.split(), "c"]).options
    return limits.from_flags(options, Log(os.devnull, "text", debug_wanted=False))


def test_sizes_have_units_as_in_go() -> None:
    found = parsed("--memory 64mib --memory-swap -1 --memory-reservation 1.5G").memory
    assert (found.limit, found.swap, found.reservation) == (64 << 20, -1, 3 << 29)


def test_every_number_reaches_its_field() -> None:
    line = "--cpu-period 10 --cpu-quota -1 --cpu-burst 0 --cpu-share 3 --cpuset-cpus 0 --cpuset-mems 0"
    cpu = parsed(f"{line} --cpu-rt-period 4 --cpu-rt-runtime 5 --cpu-idle 1").cpu
    assert (cpu.period, cpu.quota, cpu.burst, cpu.shares) == (10, -1, 0, 3)
    assert (cpu.realtime_period, cpu.realtime_runtime, cpu.idle, cpu.cpus, cpu.mems) == (4, 5, 1, "0", "0")
    assert parsed("--blkio-weight 20").block_io.weight == 20
    assert parsed("--pids-limit 7").pids_limit == 7


def test_what_is_empty_or_zero_was_not_given() -> None:
    found = parsed("--memory= --cpu-share 0 --pids-limit 0 --blkio-weight 0 --kernel-memory 1m")
    assert (found.memory.limit, found.cpu.shares, found.pids_limit, found.block_io.weight) == (None, None, None, None)
    assert parsed("--cpu-idle 0").cpu.idle == 0


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--memory x", "invalid value for memory: invalid size: 'x'"),
        ("--memory 5_0", "invalid value for memory: invalid size: '5_0'"),
        ("--memory 1gigi", "invalid value for memory: invalid size: '1gigi'"),
        ("--memory-swap -2", "invalid value for memory-swap: invalid size: '-2'"),
        ("--memory ٣", "invalid value for memory: invalid size: '٣'"),
        ("--memory 9999999999999p", "invalid value for memory: invalid size: '9999999999999p'"),
        ("--cpu-share -3", 'invalid value for cpu-share: strconv.ParseUint: parsing "-3": invalid syntax'),
        ("--cpu-period +5", 'invalid value for cpu-period: strconv.ParseUint: parsing "+5": invalid syntax'),
        ("--cpu-quota -1x", 'invalid value for cpu-quota: strconv.ParseInt: parsing "-1x": invalid syntax'),
        (
            "--cpu-quota " + NINES,
            f'invalid value for cpu-quota: strconv.ParseInt: parsing "{NINES}": value out of range',
        ),
    ],
)
def test_a_wrong_value_is_refused_in_the_words_of_go(line: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parsed(line)
    assert str(caught.value) == text


def test_a_number_flag_that_no_integer_holds_is_refused_by_the_parser() -> None:
    with pytest.raises(args.UsageError, match="value out of range"):
        parsed(f"--pids-limit {'9' * 30}")


def test_a_number_of_thousands_of_digits_is_out_of_range() -> None:
    with pytest.raises(InvalidArgument, match=r"value out of range$"):
        limits.unsigned("cpu-period", "9" * 5000)


def test_a_document_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"memory": ')
    with pytest.raises(InvalidArgument, match=f"^{path}: unexpected end of JSON input$"):
        cold.resources_from_document(str(path))
