"""`--change` of `docker import`.  Every row is what dockerd 26.1 answered."""

from __future__ import annotations

import re

import msgspec
import pytest

from corten.core.changes import apply_changes, merge
from corten.core.words import expand, split
from corten.errors import InvalidArgument
from corten.spec.image import Healthcheck, RunConfig

SECOND = 10**9


@pytest.mark.parametrize(
    ("lines", "cmd"),
    [
        (['ENTRYPOINT ["e"]'], None),
        (["CMD new", 'ENTRYPOINT ["e"]'], ["/bin/sh", "-c", "new"]),
        (['ENTRYPOINT ["e"]', 'CMD ["new"]'], ["new"]),
        (["CMD []", "ENTRYPOINT e"], None),
        (["ENV A=b"], ["old"]),
    ],
)
def test_a_new_entry_point_drops_the_command_of_before(lines: list[str], cmd: list[str] | None) -> None:
    assert apply_changes(RunConfig(cmd=["old"], entrypoint=["x"]), lines).cmd == cmd


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('CMD ["a", "b c"]', RunConfig(cmd=["a", "b c"])),
        ("cmd a b", RunConfig(cmd=["/bin/sh", "-c", "a b"])),
        ("CMD", RunConfig(cmd=["/bin/sh", "-c"])),
        ('cmd ["a",]', RunConfig(cmd=["/bin/sh", "-c", '["a",]'])),
        ("CMD ['a']", RunConfig(cmd=["/bin/sh", "-c", "['a']"])),
        ('ENTRYPOINT ["/x"]', RunConfig(entrypoint=["/x"])),
        ('ENTRYPOINT exec x "y z"', RunConfig(entrypoint=["/bin/sh", "-c", 'exec x "y z"'])),
        ("ENTRYPOINT", RunConfig()),
        ("ENTRYPOINT []", RunConfig()),
        ("ENV A x  y ", RunConfig(env=["A=x  y"])),
        ('ENV A="x y" B=z\\ w', RunConfig(env=["A=x y", "B=z w"])),
        ("ENV A='x'y", RunConfig(env=["A=xy"])),
        ("EXPOSE 80 53/udp 90-91", RunConfig(exposed_ports={"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}})),
        ("EXPOSE 90:91 81/UDP", RunConfig(exposed_ports={"91/tcp": {}, "81/udp": {}})),
        ("LABEL a=b c='d e'", RunConfig(labels={"a": "b", "c": "d e"})),
        ("LABEL a b c", RunConfig(labels={"a": "b c"})),
        ('LABEL "a b"=c', RunConfig(labels={"a b": "c"})),
        ("LABEL a=$X", RunConfig(labels={"a": ""})),
        ("USER 1:2", RunConfig(user="1:2")),
        ("USER a b", RunConfig(user="a b")),
        ("USER $U", RunConfig()),
        ('VOLUME ["/a", "/b c"]', RunConfig(volumes={"/a": {}, "/b c": {}})),
        ('VOLUME ["/a b"] x', RunConfig(volumes={"/a b": {}})),
        ("VOLUME /a /b", RunConfig(volumes={"/a": {}, "/b": {}})),
        ("WORKDIR a/../b", RunConfig(working_dir="/b")),
        ("WORKDIR /a b", RunConfig(working_dir="/a b")),
        ("STOPSIGNAL SIGINT", RunConfig(stop_signal="SIGINT")),
        ("STOPSIGNAL 9", RunConfig(stop_signal="9")),
        ("STOPSIGNAL RTMIN+3", RunConfig(stop_signal="RTMIN+3")),
        ("ONBUILD run x", RunConfig(on_build=["run x"])),
        ("HEALTHCHECK NONE", RunConfig(healthcheck=Healthcheck(test=["NONE"]))),
        (
            "HEALTHCHECK --interval=1m30s --start-interval=1s --retries=2 CMD curl x",
            RunConfig(
                healthcheck=Healthcheck(
                    test=["CMD-SHELL", "curl x"], interval=90 * SECOND, start_interval=SECOND, retries=2
                )
            ),
        ),
        ('HEALTHCHECK CMD ["x"]', RunConfig(healthcheck=Healthcheck(test=["CMD", "x"]))),
    ],
)
def test_an_instruction(line: str, expected: RunConfig) -> None:
    assert apply_changes(RunConfig(), [line]) == expected


def test_instructions_add_up() -> None:
    lines = ["ENV A=1", "ENV B=${A}x C=${A:-d} D=$Z E=\\$A F='$A' A=2", "WORKDIR /x", "WORKDIR y", "LABEL k=${B}"]
    assert apply_changes(RunConfig(), lines) == RunConfig(
        env=["A=2", "B=1x", "C=1", "D=", "E=$A", "F=$A"], working_dir="/x/y", labels={"k": "1x"}
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("", "file with no instructions"),
        ("# comment", "file with no instructions"),
        ('CMD ["a", 1]', "when using JSON array syntax, arrays must be comprised of strings only"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV =x", "ENV names can not be blank"),
        (
            'ENV A="unclosed',
            'failed to process "\\"unclosed": unexpected end of statement while looking for matching double-quote',
        ),
        ("LABEL a=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value'),
        ("EXPOSE x", "Invalid containerPort: x"),
        ("EXPOSE 70000", "Invalid containerPort: 70000"),
        ("EXPOSE 80/xyz", "Invalid proto: xyz"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ("STOPSIGNAL a b", "invalid signal: a b"),
        ("ONBUILD ONBUILD x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK --bad=1 CMD x", "unknown flag: bad"),
        ("HEALTHCHECK --interval=1us CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --interval=-1s CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --interval=1 CMD x", 'time: missing unit in duration "1"'),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK RUN x", 'Unknown type "RUN" in HEALTHCHECK (try CMD)'),
    ],
)
def test_what_cannot_be_is_refused_in_dockerds_words(line: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        apply_changes(RunConfig(), [line])
    assert str(raised.value) == text


def test_words_keep_their_quotes_until_they_are_expanded() -> None:
    assert split(" a  'b c'd \"e \\\" f\" g\\ h 'open i") == ["a", "'b c'd", '"e \\" f"', "g\\ h", "'open i"]
    assert split("") == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a'b $X'c", "ab $Xc"),
        ('"$X ${X} \\$X \\n \\\\"', "1 1 $X \\n \\"),
        ("\\a\\$X$", "a$X$"),
        ("$X-$1-$", "1-$1-$"),
        ("${E:-w}${E-w}${N-w}${N:-${X}}", "ww1"),
        ("${E:+w}${E+w}${X:+w}", "ww"),
        ("${X?no}${X:?no}", "11"),
    ],
)
def test_expansion_is_the_shells(word: str, expected: str) -> None:
    assert expand(word, {"X": "1", "E": ""}) == expected


@pytest.mark.parametrize("word", ["'x", '"x', "${X", "${X:-a", "${", "${X%y}", "${N:?gone}", "${N?}"])
def test_an_expansion_that_cannot_be_is_refused(word: str) -> None:
    with pytest.raises(InvalidArgument, match="failed to process"):
        expand(word, {"X": "1"})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("HEALTHCHECK --retries=\u00b2 CMD x", 'strconv.ParseInt: parsing "\u00b2": invalid syntax'),
        (f"HEALTHCHECK --interval={'9' * 400}h CMD x", "time: invalid duration"),
        ("STOPSIGNAL \u00b2", "invalid signal: \u00b2"),
        (f"ENV A={'${a:-' * 5000}x{'}' * 5000}", "substitutions are nested too deeply"),
    ],
)
def test_what_no_dockerfile_says_is_refused(change: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(text)):
        apply_changes(RunConfig(), [change])


def test_a_command_of_any_depth_is_a_shells() -> None:
    text = "[" * 100_000
    assert apply_changes(RunConfig(), [f"CMD {text}"]).cmd == ["/bin/sh", "-c", text]


def test_a_commit_keeps_what_its_own_configuration_does_not_say() -> None:
    other = RunConfig(
        user="u", env=["A=1", "B=2"], cmd=["c"], entrypoint=["e"], labels={"l": "1", "m": "2"}, volumes={"/v": {}},
        working_dir="/w", stop_signal="INT", stop_timeout=3, shell=["sh"], healthcheck=Healthcheck(test=["NONE"]),
        exposed_ports={"80/tcp": {}},
    )  # fmt: skip
    assert merge(RunConfig(), other) == msgspec.structs.replace(other, stop_timeout=None)  # as with dockerd
    assert merge(other, RunConfig()) == other
    own = RunConfig(env=["B=3"], labels={"m": "3"}, entrypoint=["f"], exposed_ports={"53/udp": {}}, stop_timeout=0)
    found = merge(own, other)
    assert found.env == ["B=3", "A=1"]
    assert found.labels == {"l": "1", "m": "3"}
    assert (found.entrypoint, found.cmd, found.stop_timeout) == (["f"], None, 0)
    assert set(found.exposed_ports or ()) == {"53/udp", "80/tcp"}
    assert merge(RunConfig(cmd=["x"]), other).entrypoint == ["e"]
    assert merge(RunConfig(entrypoint=[]), other).entrypoint == []


def test_changes_may_come_in_one_text() -> None:
    assert apply_changes(RunConfig(), ["ENV a=b\n\n# said\nCMD x"]).env == ["a=b"]
    with pytest.raises(InvalidArgument, match="no instructions"):
        apply_changes(RunConfig(), ["\n# nothing"])
