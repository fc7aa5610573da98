"""What may come next on a command line, without an engine; and that a man page is made of every command."""

from __future__ import annotations

import pytest

from corten.cli.complete import Choice, complete
from corten.cli.main import COMMANDS, GROUPS, root
from corten.cli.manual import escaped, pages

NAMES = {
    "container": ["box", "web"],
    "running": ["web"],
    "image": ["busybox:latest", "bash:5"],
    "volume": ["data"],
    "any": ["box", "web", "busybox:latest", "data"],
}


def choice(line: str) -> Choice:
    """For what stands on a line; its last word may be empty."""
    return complete(root(), line.split(" "), lambda kind: NAMES[kind])


def words(line: str) -> list[str]:
    return [one.text for one in choice(line).candidates]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sto", ["stop"]),
        ("system d", ["df"]),
        ("rm ", ["box", "web"]),
        ("rm box w", ["web"]),
        ("stop ", ["web"]),
        ("container stop ", ["web"]),
        ("--debug -H unix:///x rm b", ["box"]),
        ("run --rm b", ["busybox:latest", "bash:5"]),
        ("run -it --name x bus", ["busybox:latest"]),
        ("rmi ba", ["bash:5"]),
        ("inspect b", ["box", "busybox:latest"]),
        ("ps --no-t", ["--no-trunc"]),
        ("run --restart ", ["no", "always", "on-failure", "unless-stopped"]),
        ("run --restart=un", ["--restart=unless-stopped"]),
        ("run --volumes-from w", ["web"]),
        ("--tlsv", ["--tlsverify"]),
        ("nonesuch ", []),
        ("ps -- --no", []),
        ("volume rm ", ["data"]),
    ],
)
def test_what_may_come_next(line: str, found: list[str]) -> None:
    assert words(line) == found


def test_flags_come_with_their_help_and_old_names_are_kept_quiet() -> None:
    found = {one.text: one.help for one in choice("run -").candidates}
    assert found["--rm"].startswith("Automatically remove")
    assert "--network" in found
    assert "--net" not in found
    assert "--no-disable-content-trust" not in found


@pytest.mark.parametrize("line", ["run --env-file ", "load -i ", "exec web cat ", "run bash:5 ", "cp x"])
def test_paths_may_stand_where_the_engine_knows_nothing(line: str) -> None:
    assert choice(line).is_file


def test_an_operand_of_a_container_s_command_is_no_flag_of_ours() -> None:
    assert words("run busybox --") == []


def test_cp_offers_containers_with_a_colon() -> None:
    assert words("cp b") == ["box:"]


def test_every_verb_that_is_shown_is_offered() -> None:
    hidden = {"__complete", "__manual", "completion"}
    assert set(words("")) == {*COMMANDS, *GROUPS} - hidden
    for group in GROUPS:
        assert set(words(f"{group} ")) == set(GROUPS[group]) - {"dial-stdio"}


def test_every_command_has_a_page_with_each_of_its_flags() -> None:
    made = dict(pages(root()))
    assert {"corten.1", "corten-run.1", "corten-image-ls.1"} <= set(made)
    assert not any("__" in name for name in made)
    for name, text in made.items():
        assert text.startswith(".TH "), name
        assert "\n.SH NAME\n" in text, name
    for flag in ("rm", "publish", "health\\-cmd"):
        assert f"\\fB\\-\\-{flag}\\fR" in made["corten-run.1"]


def test_text_that_roff_would_obey_is_shown_as_it_is() -> None:
    assert escaped(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert escaped("a-b 'c' \\d") == "a\\-b \\(aqc\\(aq \\ed"
