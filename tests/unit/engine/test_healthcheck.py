"""A health check as configuration: merged with the image's, checked, and told to the shim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from corten.engine import healthcheck
from corten.engine.effective import Effective
from corten.errors import InvalidArgument
from corten.spec.docker import HealthConfig
from corten.spec.image import Healthcheck, RunConfig
from corten.spec.words import HEALTH_ACTION_LABEL

Decide = Callable[..., Effective]
SECOND = 10**9


@pytest.mark.parametrize(
    ("test", "more", "argv"),
    [
        (["CMD", "true", "x"], {}, ["true", "x"]),
        (["CMD-SHELL", "curl x"], {}, ["/bin/sh", "-c", "curl x"]),
        (["CMD-SHELL", "curl x"], {"Shell": ["/bin/ash", "-ec"]}, ["/bin/ash", "-ec", "curl x"]),
        (["NONE"], {}, None),
        (["WHAT", "x"], {}, None),
        ([], {}, None),
        (["CMD"], {}, [""]),
    ],
)
def test_a_test_becomes_the_command_of_the_probe(
    decide: Decide, test: list[str], more: dict[str, Any], argv: list[str] | None
) -> None:
    assert healthcheck.command(decide(Healthcheck={"Test": test}, **more).config) == argv


def test_a_container_without_a_check_has_no_command(decide: Decide) -> None:
    assert healthcheck.command(decide().config) is None


def test_the_images_check_fills_what_the_client_does_not_say(decide: Decide) -> None:
    image = RunConfig(healthcheck=Healthcheck(test=["CMD", "a"], interval=5 * SECOND, timeout=SECOND, retries=7))
    made = decide(image=image, Healthcheck={"Interval": 2 * SECOND})
    assert made.config.healthcheck == HealthConfig(test=["CMD", "a"], interval=2 * SECOND, timeout=SECOND, retries=7)
    assert made.origins["Config.Healthcheck.Test"] == "image"
    assert made.origins["Config.Healthcheck.Interval"] == "flag"
    assert decide(image=image).config.healthcheck == HealthConfig(
        test=["CMD", "a"], interval=5 * SECOND, timeout=SECOND, retries=7
    )


def test_none_of_the_client_ends_the_images_check(decide: Decide) -> None:
    image = RunConfig(healthcheck=Healthcheck(test=["CMD", "a"]))
    assert healthcheck.command(decide(image=image, Healthcheck={"Test": ["NONE"]}).config) is None


@pytest.mark.parametrize(
    ("health", "text"),
    [
        ({"Interval": 1}, "Interval in Healthcheck cannot be less than 1ms"),
        ({"Timeout": 999_999}, "Timeout in Healthcheck cannot be less than 1ms"),
        ({"StartPeriod": -1}, "StartPeriod in Healthcheck cannot be less than 1ms"),
        ({"StartInterval": 1}, "StartInterval in Healthcheck cannot be less than 1ms"),
        ({"Retries": -1}, "Retries in Healthcheck cannot be negative"),
    ],
)
def test_what_no_check_can_be_is_refused_in_dockerds_words(decide: Decide, health: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decide(Healthcheck={"Test": ["CMD", "true"], **health})
    assert caught.value.text == text


def test_an_action_that_nobody_knows_is_refused_by_name(decide: Decide) -> None:
    with pytest.raises(InvalidArgument, match=r"corten\.health-on-failure: unknown action 'reboot'"):
        decide(Labels={HEALTH_ACTION_LABEL: "reboot"})


def test_the_shim_is_told_every_number(decide: Decide) -> None:
    made = decide(
        Healthcheck={"Test": ["CMD", "true"], "StartPeriod": SECOND},
        Labels={HEALTH_ACTION_LABEL: "stop"},
        StopSignal="SIGUSR1",
        StopTimeout=3,
    )
    assert healthcheck.settings(made.config, {"args": ["true"]}) == {
        "process": {"args": ["true"]},
        "interval": 30 * SECOND,
        "timeout": 30 * SECOND,
        "start_period": SECOND,
        "start_interval": 5 * SECOND,
        "retries": 3,
        "action": "stop",
        "stop_signal": 10,
        "stop_timeout": 3,
    }


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (30 * SECOND, "30s"),
        (90 * SECOND, "1m30s"),
        (3600 * SECOND, "1h0m0s"),
        (1_500_000_000, "1.5s"),
        (100_000_000, "100ms"),
        (1_500_000, "1.5ms"),
        (1_050, "1.05µs"),
        (0, "0s"),
    ],
)
def test_durations_are_shown_as_go_shows_them(value_ns: int, text: str) -> None:
    assert healthcheck.go_duration(value_ns) == text


def test_output_of_a_probe_that_took_too_long_says_so(decide: Decide) -> None:
    config = decide(Healthcheck={"Test": ["CMD", "x"], "Timeout": 2 * SECOND}).config
    late = {"output": "", "timed_out": True}
    assert healthcheck.output(config, late) == "Health check exceeded timeout (2s)"
    assert healthcheck.output(config, {**late, "output": "so far"}) == "Health check exceeded timeout (2s): so far"


def test_bytes_that_are_no_text_are_replaced_one_by_one(decide: Decide) -> None:
    raw = b"a\xff\xe2\x82b".decode("utf-8", "surrogateescape")
    assert healthcheck.output(decide().config, {"output": raw}) == "a\ufffd\ufffd\ufffdb"
