"""`--format` templates, with the answers that docker's CLI gives for the same text."""

from __future__ import annotations

from typing import Any

import pytest

from corten.cli.gostruct import Struct
from corten.cli.gotemplate import ParseError, Template
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
        ("{{.State.Pid | }}", "5"),
        ("{{json (.State.Pid | )}}", "5"),
        ("{{if .State.Pid |}}x{{end}}", "x"),
        ("{{(.State).Pid}}", "5"),
    ],
)
def test_template_renders_as_go_does(source: str, text: str) -> None:
    assert Template(source).render(VALUE) == text


@pytest.mark.parametrize("source", ["{{", "{{.A", "{{end}}", "{{range .A}}", "{{}}", "{{nothing .A}}"])
def test_broken_template_is_refused(source: str) -> None:
    with pytest.raises(InvalidArgument, match="template"):
        Template(source).render(VALUE)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{}}", "missing value for command"),
        ("{{$x := }}", "missing value for command"),
        ("{{if}}x{{end}}", "missing value for if"),
        ("{{if .A}}x{{else if}}y{{end}}", "missing value for if"),
        ("{{range}}x{{end}}", "missing value for range"),
        ("{{()}}", "missing value for parenthesized pipeline"),
        ("{{|}}", 'unexpected "|" in command'),
        ("{{| .A}}", 'unexpected "|" in command'),
        ("{{.A | | json}}", 'unexpected "|" in command'),
        ("{{)}}", "unexpected right paren"),
        ("{{.A)}}", "unexpected right paren"),
        ("{{(.A}}", "unclosed left paren"),
    ],
)
def test_a_pipeline_with_nothing_in_it_does_not_parse(source: str, said: str) -> None:
    with pytest.raises(ParseError) as caught:
        Template(source)
    assert caught.value.text == f"template: :1: {said}"


METHOD = Struct({"Label": lambda name: f"<{name}>", "ID": "x"}, {})


def test_a_method_takes_its_argument_from_the_command_or_the_pipe() -> None:
    assert Template('{{.Label "a"}} {{"a" | .Label}} {{upper (.Label "a")}}').render(METHOD) == "<a> <a> <A>"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{.Label}}", ':1:2: executing "" at <.Label>: wrong number of args for Label: want 1 got 0'),
        ("{{json .Label}}", ':1:7: executing "" at <.Label>: wrong number of args for Label: want 1 got 0'),
        ('{{printf "%s" .Label}}', ':1:14: executing "" at <.Label>: wrong number of args for Label: want 1 got 0'),
        ("{{if .Label}}x{{end}}", ':1:5: executing "" at <.Label>: wrong number of args for Label: want 1 got 0'),
        ('{{.Label "a" "b"}}', ':1:2: executing "" at <.Label>: wrong number of args for Label: want 1 got 2'),
        ('{{"c" | .Label "a"}}', ':1:8: executing "" at <.Label>: wrong number of args for Label: want 1 got 2'),
        ("{{.Label 5}}", ':1:9: executing "" at <5>: expected string; found 5'),
        ('{{split "a" "," | .Label}}', ':1:18: executing "" at <.Label>: expected string; found [a]'),
    ],
)
def test_a_method_with_other_arguments_is_refused_in_gos_words(source: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Template(source).render(METHOD)
    assert caught.value.text == f"template: {said}"


def test_field_of_a_string_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="can't evaluate field X"):
        Template("{{.State.Status.X}}").render(VALUE)
