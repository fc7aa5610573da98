"""The check at a run's end sees what only uses the run's files: a launcher has the run's name nowhere else."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support import process


def test_a_process_that_holds_a_file_of_a_run_is_seen(tmp_path: Path) -> None:
    mark = tmp_path.name
    with (tmp_path / "start").open("w") as file, subprocess.Popen(["sleep", "100"], stdout=file) as sleeper:
        try:
            assert sleeper.pid not in process.processes(mark)
            assert sleeper.pid in process.holders(mark)
        finally:
            process.kill([sleeper.pid])
    assert not list(process.holders(mark))
