"""`--format` templates, with the answers that docker's CLI gives for the same text."""

from __future__ import annotations

from typing import Any

import pytest

from corten.cli.gotemplate import Template
from corten.errors import InvalidArgument

VALUE: dict[str, Any] = {
    "State": {"Status": "running", "Pid": 5, "Running": True},
    "Mounts": [{"A": "x"}, {"A": "y"}],
    "Labels": {"a.b": "c", "d": "e"},
    "Args": ["one", "two"],
    "None": None,
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{.State.Status}}", "running"),
        ("{{json .State.Running}}", "true"),
        ("{{json .Mounts}}", '[{"A":"x"},{"A":"y"}]'),
        ("{{range .Mounts}}{{.A}};{{end}}", "x;y;"),
        ("{{range $i, $m := .Mounts}}{{$i}}={{$m.A}} {{end}}", "0=x 1=y "),
        ("{{range $k, $v := .Labels}}{{$k}}:{{$v}},{{end}}", "a.b:c,d:e,"),
        ('{{index .Labels "a.b"}}', "c"),
        ("{{if eq .State.Pid 5}}yes{{else}}no{{end}}", "yes"),
        ("{{if .None}}yes{{else if .State.Running}}second{{else}}no{{end}}", "second"),
        ("{{with .None}}a{{else}}b{{end}}", "b"),
        ('{{join .Args ","|upper}}', "ONE,TWO"),
        ('{{printf "%-10s|%d" .State.Status .State.Pid}}', "running   |5"),
        ("{{(index .Mounts 0).A}}", "x"),
        ("{{len .Args}}", "2"),
        ("{{.Labels}} {{.Args}}", "map[a.b:c d:e] [one two]"),
        ("{{.Missing}}", "<no value>"),
        ("a {{- .State.Pid -}} b", "a5b"),
    ],
)
def test_template_renders_as_go_does(source: str, text: str) -> None:
    assert Template(source).render(VALUE) == text


@pytest.mark.parametrize("source", ["{{", "{{.A", "{{end}}", "{{range .A}}", "{{}}", "{{nothing .A}}"])
def test_broken_template_is_refused(source: str) -> None:
    with pytest.raises(InvalidArgument, match="template"):
        Template(source).render(VALUE)


def test_field_of_a_string_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="can't evaluate field X"):
        Template("{{.State.Status.X}}").render(VALUE)
