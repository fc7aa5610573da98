"""Metrics as text."""

from __future__ import annotations

import re

import pytest

from corten.engine.exposition import Family, render

FAMILIES = [
    Family("a_bytes", "gauge", "Bytes", [({}, 5)]),
    Family("b", "counter", "Times", [({"name": 'x"y\\z\n', "id": "1"}, 0.5)]),
    Family("c", "info", "About", [({"v": "1"}, 1)]),
    Family("d", "gauge", "No sample", []),
]
LABELS = r'{name="x\"y\\z\n",id="1"}'


def test_open_metrics_names_families_without_suffixes_and_has_an_end() -> None:
    assert render(FAMILIES, is_open=True).splitlines() == [
        *("# HELP a_bytes Bytes", "# TYPE a_bytes gauge", "a_bytes 5"),
        *("# HELP b Times", "# TYPE b counter", f"b_total{LABELS} 0.5"),
        *("# HELP c About", "# TYPE c info", 'c_info{v="1"} 1'),
        "# EOF",
    ]


def test_prometheus_own_format_names_samples() -> None:
    assert render(FAMILIES, is_open=False).splitlines() == [
        *("# HELP a_bytes Bytes", "# TYPE a_bytes gauge", "a_bytes 5"),
        *("# HELP b_total Times", "# TYPE b_total counter", f"b_total{LABELS} 0.5"),
        *("# HELP c_info About", "# TYPE c_info gauge", 'c_info{v="1"} 1'),
    ]


def test_a_label_cannot_begin_a_line() -> None:
    assert render(FAMILIES, is_open=False).count("\n") == 9


@pytest.mark.parametrize("name", ['a"} 1\nfake 2', "back\\", '\\"', "\r\u2028\udcff", "# EOF"])
def test_a_label_says_what_it_holds_and_nothing_else(name: str) -> None:
    text = render([Family("a", "gauge", "A", [({"name": name}, 1)])], is_open=True)
    *_, sample, end, nothing = text.split("\n")
    assert (end, nothing) == ("# EOF", "")
    found = re.fullmatch(r'a\{name="((?:[^"\\\n]|\\["\\n])*)"\} 1', sample)
    assert found is not None
    assert re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), found[1]) == name
