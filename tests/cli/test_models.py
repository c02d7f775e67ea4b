"""``python -m deepshi_provider models`` shows the content of the catalog, and no more."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.cli.main import main
from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow_database import new_home

ROOT = Path(__file__).parents[2]


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    assert main(["models", "--json", *arguments]) == 0
    return {model["id"]: model for model in json.loads(capsys.readouterr().out)}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, with only Airflow's home from the tests' environment."""
    env = {"AIRFLOW_HOME": os.environ["AIRFLOW_HOME"], "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "deepshi_provider", *arguments]
    return subprocess.run(command, env=env | environment, capture_output=True, text=True, check=False)


def test_table_shows_sizing_limits_and_editing(emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    tables, note = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    (head, *rows), (fields_head, *fields) = (table.splitlines() for table in tables.split("\n\n"))
    cells = {row[0]: row for row in (re.split(r"\s{2,}", line) for line in rows)}
    assert head.split() == ["MODEL", "SIZED", "BY", "SIZES", "N", "PROMPT", "EDITS", "FORMATS"]
    assert cells["flux-2-pro"][1:] == [
        "pixel dimensions",
        "width 16-4096; height 16-4096",
        "1-2",
        "10,000",
        "1-8 images",
        "png jpeg",
    ]
    ratios = "1:1 16:9 9:16 4:3 3:4 3:2 2:3 21:9"
    assert cells["grok-imagine-quality"][1:3] == [
        "resolution tier",
        f"aspect_ratio {ratios}; resolution 1K 2K",
    ]
    assert cells["grok-imagine"][1:6] == ["aspect ratio", f"aspect_ratio {ratios}", "1-4", "8,000", "1 image"]
    assert cells["gpt-image-2"][1:3] == ["preset", "image_size auto 1024x1024 1536x1024 1024x1536"]
    # Its entry has no edit block, and no images among what it takes.
    assert (cells["deepshi-banana-pro"][3], cells["deepshi-banana-pro"][5]) == ("1", "no")
    assert note == "10 image models; ? means that the catalog does not state it."
    assert "deepshi-chat-large" not in cells
    assert fields_head.split() == ["MODEL", "FIELD", "TYPE", "ALLOWED", "DEFAULT"]
    described = {tuple(row[:2]): row[2:] for row in (re.split(r"\s{2,}", line) for line in fields)}
    assert described["flux-2-pro", "width"] == ["integer", "16-4096", "1024"]
    assert described["nano-banana-2", "resolution"] == ["string", "1K 2K 4K", "1K"]
    assert described["gpt-image-2", "quality"] == ["string", "low medium high", "medium"]
    assert described["seedream-4.5", "seed"] == ["integer", "0-4294967295", "?"]
    assert ("gpt-image-2", "seed") not in described


def test_json_has_all_known_values(emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    (entry,) = [model for name, model in listed(capsys).items() if name == "grok-imagine"]
    parameters = entry.pop("parameters")
    assert entry == {
        "id": "grok-imagine",
        "sizing_style": "aspect ratio",
        "sizing": ["aspect_ratio"],
        "can_edit": True,
        "max_input_images": 1,
        "max_input_bytes": None,
        "prompt_max_length": 8000,
        "makes_images": True,
    }
    number = {"type": "integer", "allowed": None, "minimum": 1, "maximum": 4, "default": "1"}
    text = {"type": "string", "allowed": ["jpeg"], "minimum": None, "maximum": None, "default": "jpeg"}
    assert (parameters["n"], parameters["output_format"]) == (number, text)


@pytest.mark.parametrize("shape", ["list", "allowed"])
def test_the_shape_of_the_catalog_makes_no_difference(
    emulator: Emulator, capsys: pytest.CaptureFixture[str], shape: str
) -> None:
    usual = listed(capsys)
    emulator.settings(catalog_shape=shape)
    assert listed(capsys) == usual


def test_unknown_forms_are_shown_as_unknown(emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    emulator.settings(catalog_shape="odd")
    models = listed(capsys)
    assert main(["models"]) == 0
    assert models["flux-2-pro"]["sizing_style"] is None
    assert re.search(r"^flux-2-pro( +\?){6}$", capsys.readouterr().out, re.MULTILINE)


def test_no_price_is_shown_and_nothing_is_bought(emulator: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert main(["models", "--json"]) == 0
    output = capsys.readouterr().out.lower()
    assert [word for word in ("cost", "price", "usd", "$") if word in output] == []
    assert (emulator.requests(), emulator.stats()["images"]) == ([], 0)


@pytest.mark.slow
def test_an_address_and_a_key_replace_a_connection(emulator: Emulator) -> None:
    assert emulator.ca_file
    trust = {"DEEPSHI_API_KEY": emulator.api_key, "SSL_CERT_FILE": emulator.ca_file}
    done = run("models", "--json", "--base-url", emulator.base_url, **trust)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)) == 10


@pytest.mark.slow
def test_a_connection_in_the_environment_is_found_by_its_id(emulator: Emulator) -> None:
    done = run("models", "--conn-id", "mine", AIRFLOW_CONN_MINE=emulator.connection_json())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("10 image models; ? means that the catalog does not state it.\n")


@pytest.mark.airflow
def test_a_connection_in_the_database_is_found(emulator: Emulator, tmp_path: Path) -> None:
    environment = {"AIRFLOW_HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    add = ["connections", "add", "stored", "--conn-json", emulator.connection_json()]
    new_home(tmp_path)
    command = [sys.executable, "-m", "airflow", *add]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = run("models", "--json", "--conn-id", "stored", AIRFLOW_HOME=str(tmp_path))
    assert (found.returncode, len(json.loads(found.stdout or "[]"))) == (0, 10), found.stderr


@pytest.mark.parametrize("scheme", ["http"])
def test_errors_describe_the_failure_and_never_the_key(
    emulator: Emulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "--conn-id", "nobody"]) == 2
    assert capsys.readouterr().err == "error: The connection 'nobody' is not defined\n"
    assert main(["models", "--base-url", emulator.base_url, "--api-key", "sk-bf-wrong"]) == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ")
    assert "sk-bf-wrong" not in output
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert main(["models", "--base-url", f"http://127.0.0.1:{port}", "--api-key", "sk-bf-x"]) == 2
    assert f"http://127.0.0.1:{port} does not answer" in capsys.readouterr().err
    monkeypatch.delenv("DEEPSHI_API_KEY", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(["models", "--base-url", emulator.base_url])
    assert "DEEPSHI_API_KEY" in capsys.readouterr().err
