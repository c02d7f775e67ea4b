"""``make demo`` against its emulator."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from dags_examples.product_images import PRODUCTS
from tests.examples.conftest import ROOT, local, size_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_demo_shows_what_it_made(tmp_path: Path) -> None:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("AIRFLOW", "DEEPSHI_API_KEY"))}
    done = subprocess.run(
        [sys.executable, "-m", "dags_examples.demo"],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    folder = tmp_path / "demo-output"
    pictures = sorted(path for path in folder.rglob("image-*.*"))
    assert len(pictures) == 6
    assert all(size_of(path) == (1024, 768) for path in pictures)
    (table,) = folder.rglob("costs.csv")
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["task", "picture", "size", "model", "cost_usd"]
    assert {local(line["picture"]) for line in lines} == set(pictures)
    (sheet,) = folder.rglob("contact-sheet.png")
    assert size_of(sheet) == (960, 480)

    total = sum(float(line["cost_usd"]) for line in lines)
    printed = done.stdout.splitlines()
    shown = [line for line in printed if re.match(r"\S+/image-0\.\w+ +1024x768 +\S+ +\$0\.\d{6}$", line)]
    assert len(shown) == 6, done.stdout
    assert f"Total: ${total:.6f} for 6 pictures" in printed
    page = (folder / "index.html").read_text()
    assert f"<h1>6 pictures for ${total:.6f}</h1>" in page
    assert printed[-1] == f"Open this page: {(folder / 'index.html').as_uri()}"
    prompts = re.findall(r"<strong>([^<]+)</strong>", page)
    assert prompts[::2] == [f"Studio photo of {product}, white background" for product in PRODUCTS]
    assert len(set(prompts[1::2])) == 1, "each edit is beside its source"
    sources = re.findall(r'<img src="([^"]+)"', page)
    assert {folder / unquote(source) for source in sources} == set(pictures)
