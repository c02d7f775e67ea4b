"""The contents of the wheel and the sdist."""

from __future__ import annotations

import email
import email.message
import hashlib
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from deepshi_provider import __version__
from deepshi_provider.get_provider_info import get_provider_info
from tests.packaging.conftest import ROOT, Distributions, build

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "deepshi_provider"


@pytest.fixture(scope="module")
def metadata(distributions: Distributions) -> email.message.Message:
    with zipfile.ZipFile(distributions.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(wheel.read(name))


def contents(wheel: Path) -> dict[str, str]:
    """Return name and SHA-256 of each file."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def test_wheel_holds_the_whole_package_and_nothing_else(distributions: Distributions) -> None:
    """Including pages and scripts of the plugin, and ``py.typed``."""
    files = {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = contents(distributions.wheel)
    assert "deepshi_provider/py.typed" in inside
    assert {name: digest for name, digest in inside.items() if ".dist-info/" not in name} == files


def test_sdist_builds_the_same_wheel(distributions: Distributions, tmp_path: Path) -> None:
    # Python's own extractall warns without a filter from 3.12, and knows none before 3.11.4.
    subprocess.run(["tar", "-xf", distributions.sdist, "-C", tmp_path], check=True)
    (source,) = tmp_path.iterdir()
    wheel = build(source, tmp_path / "built", "--target", "wheel")
    assert wheel.name == distributions.wheel.name
    assert contents(wheel) == contents(distributions.wheel)


def test_sdist_holds_what_is_needed_to_work_on_it(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "constraints.txt",
        "dags_examples/demo.py",
        "docs/architecture.md",
        "pyproject.toml",
        "tests/conftest.py",
    }
    assert needed <= names
    assert [name for name in names if "__pycache__" in name or name.startswith((".venv", "build", "dist/"))] == []


def test_metadata_has_description_and_requirements(metadata: email.message.Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("airflow-provider-deepshi", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.15,>=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "https://deepshi.ai" in "".join(metadata.get_all("Project-URL", []))
    assert "Framework :: Apache Airflow :: Provider" in metadata.get_all("Classifier", [])
    assert {"amazon", "emulator", "parquet"} <= set(metadata.get_all("Provides-Extra", []))
    plain = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert "apache-airflow<4,>=3.1" in plain
    # They are in extras.
    optional = ("amazon", "duckdb", "pyarrow", "s3fs", "starlette", "uvicorn")
    assert [need for need in plain if any(name in need for name in optional)] == []


def test_registry_file_names_what_exists() -> None:
    """Airflow's provider registry reads ``.airflow-registry.yaml`` in a provider's repository."""
    listed = yaml.safe_load((ROOT / ".airflow-registry.yaml").read_text())
    info = get_provider_info()
    assert (listed["package-name"], listed["display-name"]) == (info["package-name"], info["name"])
    for part in ("operators", "hooks", "triggers"):
        modules = {name for item in info[part] for name in item["python-modules"]}
        paths = [entry["module"] for entry in listed[part]]
        assert {path.rpartition(".")[0] for path in paths} == modules
        for path in paths:
            module, _, name = path.rpartition(".")
            source = (ROOT / module.replace(".", os.sep)).with_suffix(".py").read_text()
            assert f"\nclass {name}(" in source
        assert all(entry["description"] for entry in listed[part])
