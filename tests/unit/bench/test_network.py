"""The pure parts of the rows about networks: what a network costs, and what the load programs said."""

from __future__ import annotations

import json
import sys

import pytest

from support import paths

sys.path.append(str(paths.REPOSITORY / "bench"))  # bench is run, not installed

import network
from harness import Sample


def test_a_network_costs_what_a_run_with_it_takes_longer_round_by_round() -> None:
    assert network.difference(Sample((9.0, 5.0)), Sample((6.0, 4.0))) == Sample((3.0, 1.0))


def test_rounds_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        network.difference(Sample((9.0, 5.0)), Sample((6.0,)))


def test_a_stream_is_judged_by_what_the_receiver_counted() -> None:
    said = {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {"bits_per_second": 8e9}}
    assert network.stream_rate(json.dumps({"end": said})) == 1000.0


def test_a_stream_costs_what_both_ends_take_of_the_processors_for_each_gigabyte() -> None:
    percent = {"host_total": 40.0, "remote_total": 60.0}
    end = {"cpu_utilization_percent": percent, "sum_received": {"seconds": 2.0, "bytes": 4_000_000_000}}
    assert network.stream_cost(json.dumps({"end": end})) == 500.0


def test_connections_are_counted_per_second_and_none_may_have_failed() -> None:
    assert network.connection_rate("500 0\n") == 500 / float(network.CONNECT_S)
    with pytest.raises(RuntimeError, match="2 of 12 connections failed"):
        network.connection_rate("10 2\n")
