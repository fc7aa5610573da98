"""Addresses as text."""

from __future__ import annotations

import pytest

from corten.spec.address import mac_address


@pytest.mark.parametrize("text", ["02:42:AC:11:00:05", "02-42-ac-11-00-05", "0242.ac11.0005"])
def test_a_hardware_address_is_read_in_the_forms_of_go(text: str) -> None:
    assert mac_address(text) == "02:42:ac:11:00:05"


@pytest.mark.parametrize(
    "text", ["", "zz", "02:42:ac:11:00", "02:42:ac:11:00:05\n", "02:42-ac:11:00:05", "02:42:ac:11:00:05:06:07"]
)
def test_what_is_no_hardware_address_is_none(text: str) -> None:
    assert mac_address(text) == ""
