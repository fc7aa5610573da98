"""The hand-written parser: runc's grammar, flags and sentences."""

from __future__ import annotations

import pytest

from corten.runtime import args, main, usage
from support import runcwords


def parse(line: str) -> args.Invocation:
    return args.parse(["corten-runtime", *line.split()])


@pytest.mark.parametrize(
    "line",
    ["create --bundle /b c1", "create -b /b c1", "create --bundle=/b c1", "create -bundle /b c1", "create c1 -b /b"],
)
def test_every_spelling_of_a_flag_means_the_same(line: str) -> None:
    found = parse(line)
    assert (found.verb, found.options.text("bundle"), found.arguments) == ("create", "/b", ["c1"])


def test_what_containerd_calls_is_understood() -> None:
    found = parse(
        "--root /r --log /l/log.json --log-format json --systemd-cgroup --debug"
        " create --bundle /b --pid-file /b/init.pid --console-socket /t/pty.sock --no-pivot --no-new-keyring id1"
    )
    assert found.settings.text("root") == "/r"
    assert found.settings.is_set("systemd-cgroup")
    assert found.options.text("console-socket") == "/t/pty.sock"
    assert found.options.is_set("no-pivot")


def test_what_conmon_calls_is_understood() -> None:
    found = parse("--root=/r --log-format=json --log /l exec --pid-file /p --process /spec --detach id1")
    assert (found.verb, found.options.text("process"), found.arguments) == ("exec", "/spec", ["id1"])


def test_the_rest_of_exec_belongs_to_the_command() -> None:
    found = parse("exec -t -e A=1 -e B=2 id1 ls --all -t -- x")
    assert found.arguments == ["id1", "ls", "--all", "-t", "--", "x"]
    assert found.options.items("env") == ["A=1", "B=2"]
    assert found.options.is_set("tty")


def test_flags_of_kill_may_follow_its_arguments() -> None:
    found = parse("kill id1 KILL --all")
    assert found.arguments == ["id1", "KILL"]
    assert found.options.is_set("all")


def test_a_flag_without_value_may_be_given_one() -> None:
    assert not parse("run --detach=false id1").options.is_set("detach")
    assert parse("run --detach=true id1").options.is_set("detach")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("state", 'corten-runtime: "state" requires exactly 1 argument(s)'),
        ("state a b", 'corten-runtime: "state" requires exactly 1 argument(s)'),
        ("kill", 'corten-runtime: "kill" requires a minimum of 1 argument(s)'),
        ("kill a b c", 'corten-runtime: "kill" requires a maximum of 2 argument(s)'),
        ("state --nope x", "flag provided but not defined: -nope"),
        ("--nope state x", "flag provided but not defined: -nope"),
        ("create --bundle", "flag needs an argument: -bundle"),
        ("create --preserve-fds x c", 'invalid value "x" for flag -preserve-fds: parse error'),
        ("run --detach=maybe c", 'invalid boolean value "maybe" for -detach: parse error'),
        ("frobnicate", "No help topic for 'frobnicate'"),
    ],
)
def test_a_wrong_line_is_refused_in_the_words_of_runc(line: str, text: str) -> None:
    with pytest.raises(args.UsageError) as caught:
        parse(line)
    assert str(caught.value) == text


def test_an_unknown_verb_has_a_status_of_its_own() -> None:
    with pytest.raises(args.UsageError) as caught:
        parse("frobnicate")
    assert caught.value.status == 3


@pytest.mark.parametrize("verb", args.VERBS)
def test_every_verb_and_flag_has_its_line_of_help(verb: str) -> None:
    assert verb in usage.VERBS
    shown = usage.text(verb)
    for name, _, _ in args.VERBS[verb].flags:
        assert f"--{name}" in shown
        assert usage.FLAGS.get(name), name
    assert f"   {verb} " in usage.text("")


def test_a_verb_that_runs_has_its_flags_and_the_other_way_round() -> None:
    assert set(main.VERBS) == set(args.VERBS)


def test_help_excuses_missing_arguments() -> None:
    assert parse("create --help").options.is_set("help")
    assert parse("help").settings.is_set("help")


@pytest.mark.parametrize("verb", runcwords.FIRST)
def test_every_flag_of_runc_from_1_1_to_1_4_is_taken_in_its_form(verb: str) -> None:
    rows = args.VERBS[verb].flags if verb else args.GLOBAL_FLAGS
    ours = {name: (short, kind != args.BOOL) for name, short, kind in rows}
    for table in (runcwords.FIRST, runcwords.HIDDEN, runcwords.LATER):
        for name, form in runcwords.flags(table.get(verb, "")).items():
            assert ours.get(name) == form, name
