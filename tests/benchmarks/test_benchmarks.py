"""The benchmarks run, and write a page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ways import PARTS


@pytest.mark.airflow
@pytest.mark.load  # it takes as long as all other tests with an Airflow
@pytest.mark.timeout(600)
def test_quick_run_measures_every_client_and_writes_the_page(tmp_path: Path) -> None:
    results, page = tmp_path / "results.json", tmp_path / "docs" / "performance.md"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--results", str(results), "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert {row["client"] for row in found["answers"]} == {"provider", "sdk", "http_trigger", "floor"}
    assert {row["client"] for row in found["plain_answers"]} == {"provider", "sdk", "http_trigger", "floor"}
    assert [row["rows"] for row in found["growth"]] == [10, 100]
    assert [row["s3"]["calls"] > 0 for row in found["object_store"]] == [True]
    assert [row["way"] for row in found["through_airflow"]["rows"]] == list(PARTS)
    text = page.read_text()
    assert "A quick run" in text
    for line in text.splitlines():
        if "](images/" in line:
            assert (page.parent / line.partition("](")[2].rstrip(")")).is_file()
