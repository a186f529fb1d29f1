"""Corrupt files of many kinds, and long reading: frames or the documented error, and no growth. (Slow.)"""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.processes import run_program


ROOT = Path(__file__).parents[1]


def run(tmp_path, script, *arguments):
    """The rows that a benchmark script reports."""
    output = tmp_path / "report.json"
    command = [sys.executable, str(ROOT / "scripts" / "benchmarks" / script), *arguments, "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = run_program(command, seconds=280, env=environment)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return json.loads(output.read_text())["rows"]


@pytest.mark.slow
def test_spoilt_files_give_frames_or_the_documented_error(tmp_path):
    rows = run(tmp_path, "fuzz.py", "--files", "300", "--first", "100000")
    assert sum(row["frames"] + row["error"] for row in rows) == 300
    assert len(rows) == 7 and all(row["frames"] > 0 for row in rows) and sum(row["error"] for row in rows) > 30


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clips_that_were_read(tmp_path):
    (row,) = run(tmp_path, "soak.py", "--reads", "3000")
    assert row["errors"] == 750 and row["growth %"] < 3


@pytest.mark.slow
def test_workers_that_come_and_go_leave_nothing_behind(tmp_path):
    (row,) = run(tmp_path, "soak.py", "--workers", "3", "--minutes", "0.3")
    assert row["clips"] == row["expected"] > 0 and row["zombies"] == row["processes left"] == 0
