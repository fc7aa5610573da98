"""The pure parts of `make bench`: turns, units, ratios, budgets, the table, the page, and the list of what was run."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import paths

sys.path.append(str(paths.REPOSITORY / "bench"))  # bench is run, not installed

import harness
import scale
from harness import Budget, Row, Sample, budgets


def turns(taken: list[str], name: str, said: float | None) -> Callable[[], float | None]:
    """A contender that notes its turn and says how long it took."""

    def once() -> float | None:
        taken.append(name)
        return said

    return once


def test_contenders_take_turns_and_warm_rounds_are_not_counted() -> None:
    taken: list[str] = []
    samples = harness.interleave({"a": turns(taken, "a", 0.5), "b": turns(taken, "b", 0.25)}, 3, warm=2)
    assert taken == ["a", "b"] * 5
    assert samples == {"a": Sample((500.0,) * 3), "b": Sample((250.0,) * 3)}


def test_what_comes_before_a_turn_comes_before_each_and_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    taken: list[str] = []

    def before() -> None:
        taken.append("before")
        clock[0] += 100

    def once() -> None:
        taken.append("once")
        clock[0] += 2

    monkeypatch.setattr("harness.time.perf_counter", lambda: clock[0])
    samples = harness.interleave({"a": once, "b": once}, 1, warm=0, unit=harness.seconds, before=before)
    assert taken == ["before", "once"] * 2
    assert samples == {"a": Sample((2.0,)), "b": Sample((2.0,))}


def test_every_first_run_of_every_contender_has_cold_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr("harness.drop_caches", lambda: taken.append("drop"))
    samples = harness.first({"a": turns(taken, "a", 1), "b": turns(taken, "b", 1)})
    assert taken == ["drop", "a", "drop", "b"] * harness.FIRST_ROUNDS
    assert len(samples["a"].values) == harness.FIRST_ROUNDS >= 3


def test_a_rate_is_an_amount_by_its_seconds() -> None:
    assert harness.rate(40)(0.5) == 80
    assert harness.milliseconds(0.5) == 500
    assert harness.seconds(0.5) == 0.5


def test_the_ratio_is_of_medians() -> None:
    row = Row("r", "ms", {"peer": Sample((1, 4, 100)), "corten": Sample((1, 2, 3)), "idle": Sample((0,))})
    assert row.ratio("peer") == "0.50"
    assert row.ratio("idle") == "–"
    assert Row("r", "ms", {"C": Sample((1,))}).ratio("C") == "–"
    assert row.samples["peer"].minimum == 1


def test_the_table_has_n_minimum_median_and_ratio_of_each_contender() -> None:
    row = Row("run", "ms", {"runc": Sample((40.0, 50.0)), "corten": Sample((10.0, 20.0, 30.0))}, budgets("0.7", "runc"))
    assert harness.table([row]).splitlines()[2:] == [
        "| run | runc | 2 | 40.00 ms | 45.00 ms | 0.44 |  |",
        "|  | corten | 3 | 10.00 ms | 20.00 ms |  | ≤ 0.7 × runc |",
    ]


def test_a_budget_is_kept_up_to_its_limit_and_by_medians_that_are_not_rounded() -> None:
    samples = {"corten": Sample((1.0, 2.0, 90.0)), "peer": Sample((16.0,)), "idle": Sample((0.0,))}
    assert Budget("1/8", "peer").is_kept(samples)
    assert not Budget("0.1249", "peer").is_kept(samples)
    assert Budget("2").is_kept(samples)
    assert not Budget("1.999").is_kept(samples)
    assert not Budget("5", "idle").is_kept(samples)
    assert Budget("2", least=True).is_kept(samples)
    assert not Budget("2.001", least=True).is_kept(samples)
    assert Budget("1/8", "peer", least=True).is_kept(samples)
    assert not Budget("0.126", "peer", least=True).is_kept(samples)


def test_a_budget_against_somebody_who_is_not_in_the_row_is_an_error() -> None:
    with pytest.raises(KeyError):
        Row("r", "ms", {"corten": Sample((1,))}, budgets("1/8", "dockerd")).missed()
    with pytest.raises(KeyError):
        Row("r", "ms", {"tar": Sample((1,))}, budgets("3")).missed()


def test_every_missed_budget_is_listed_with_its_row_its_ratio_or_value_and_itself() -> None:
    runs = {"runc": Sample((40.0,)), "crun": Sample((30.0,)), "corten": Sample((6.0,))}
    rows = [
        Row("docker run", "ms", runs, budgets("1/8", "runc", "crun")),
        Row("no budget", "ms", runs),
        Row("  shim", "MB", {"corten": Sample((0.75,))}, budgets("0.7")),
        Row("storm", "/s", {"peer": Sample((10.0,)), "corten": Sample((55.0,))}, budgets("6", "peer", least=True)),
        Row("log", "MB/s", {"corten": Sample((99.0,))}, budgets("100", least=True)),
        Row("ps", "ms", {"corten": Sample((60.0,))}, budgets("80")),
    ]
    assert harness.missed(rows).splitlines() == [
        "Budgets missed: 5 of 6.",
        "",
        "- missed: docker run: 0.15 × runc, budget ≤ 1/8 × runc",
        "- missed: docker run: 0.20 × crun, budget ≤ 1/8 × crun",
        "- missed: shim: 0.75 MB, budget ≤ 0.7 MB",
        "- missed: storm: 5.50 × peer, budget ≥ 6 × peer",
        "- missed: log: 99.00 MB/s, budget ≥ 100 MB/s",
    ]
    assert harness.missed(rows[-1:]) == "Budgets missed: 0 of 1."


def test_the_prose_of_a_page_stays_and_its_last_run_is_replaced() -> None:
    page = "# Performance\n\nProse.\n\n## The last run\n\nOld.\n"
    new = harness.kept(page, "Measured.\n")
    assert new == "# Performance\n\nProse.\n\n## The last run\n\nMeasured.\n"
    assert harness.kept(new, "Measured.\n") == new
    with pytest.raises(ValueError, match="no line"):
        harness.kept("# Another page\n", "Measured.\n")
    assert f"\n{harness.HEADING}\n" in (paths.REPOSITORY / "docs" / "performance.md").read_text()


def test_the_prose_about_performance_leaves_figures_to_the_tables() -> None:
    page = scale.placed((paths.REPOSITORY / "docs" / "performance.md").read_text(), "")
    before, _, _ = page.partition(harness.HEADING)
    prose = "\n".join(line for line in before.splitlines() if not line.startswith("|"))
    assert re.findall(r"[\d.]+ (?:ms|s|MB|MB/s|/s|%|×)(?!\w)", prose) == []
    assert re.findall(r"\b0\.\d+", prose) == []


def test_the_c_floor_has_the_namespaces_of_the_launch() -> None:
    import warm

    assert warm.clone_flags(["pid", "network", "ipc", "uts", "mount"]) == 0x6C020000
    assert warm.clone_flags(["mount", "cgroup", "user"]) == 0x12020000
    with pytest.raises(KeyError):
        warm.clone_flags(["time"])


def test_rows_that_ran_the_same_stand_together_and_contenders_that_did_are_one_line() -> None:
    ran = {"a": "x run", "b": "y run"}
    rows = [
        Row("run, first", "ms", {}, (), ran),
        Row("run", "ms", {}, (), dict(ran)),
        Row("  of it: some", "ms", {}, (), {"a": "GET /", "b": "GET /"}),
    ]
    assert harness.commands(rows).splitlines() == [
        "- run, first; run:",
        "  - a: `x run`",
        "  - b: `y run`",
        "- of it: some: `GET /`",
    ]


def test_an_argv_is_printed_as_a_shell_reads_it_without_the_checkouts_place() -> None:
    argv: list[str | Path] = [paths.COMMANDS / "corten", "ps", "a b", paths.cache("peers") / "runc"]
    assert harness.words(argv) == "./.venv/bin/corten ps 'a b' .cache/peers/runc"


def test_a_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert harness.digest(tmp_path / "file").startswith("ba7816bf8f01cfea")


def test_requests_are_noted_with_their_bodies_and_without_ids() -> None:
    import api

    connection = api.KeptConnection(Path("/nowhere"))
    connection.asked += [f"POST /v1.41/containers/{'a1' * 32}/start", 'POST /v1.41/containers/create {"Image": "i"}']
    assert connection.text() == 'POST /v1.41/containers/ID/start; POST /v1.41/containers/create {"Image": "i"}'


def test_every_row_says_what_it_ran() -> None:
    import ast

    for path in sorted((paths.REPOSITORY / "bench").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Row":
                assert len(node.args) == 5 or any(one.arg == "commands" for one in node.keywords), (
                    f"{path.name}:{node.lineno}: a row without commands"
                )
