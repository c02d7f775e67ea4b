"""The wheel in environments of its own, with the source out of reach."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider import __version__
from deepshi_provider.get_provider_info import get_provider_info
from tests.packaging.conftest import ROOT, Environment

pytestmark = [pytest.mark.airflow, pytest.mark.packaging, pytest.mark.timeout(600)]

INFO = get_provider_info()
#: Suites that need neither an Airflow of their own nor an S3 server.
SUITES = ["api", "hooks"]


def providers(installed: Environment, *arguments: str) -> list[dict[str, Any]]:
    output = installed.run("airflow", "providers", *arguments, "--output", "json").stdout
    found: list[dict[str, Any]] = json.loads(output[output.index("[") :])
    return found


def test_the_package_comes_from_the_wheel(installed: Environment) -> None:
    program = "import deepshi_provider; print(deepshi_provider.__file__)"
    place = installed.run("python", "-c", program).stdout
    assert "site-packages" in place
    assert place.startswith(str(installed.folder))
    assert list(installed.folder.rglob("deepshi_provider/py.typed"))


def test_airflow_lists_the_provider(installed: Environment) -> None:
    (entry,) = [p for p in providers(installed, "list") if p["package_name"] == "airflow-provider-deepshi"]
    assert entry["version"] == __version__
    (told,) = providers(installed, "get", "airflow-provider-deepshi", "--full")
    assert (told["name"], told["operators"], told["hooks"]) == ("Deepshi", INFO["operators"], INFO["hooks"])


def test_airflow_lists_the_connection_type(installed: Environment) -> None:
    (hook,) = [hook for hook in providers(installed, "hooks") if hook["connection_type"] == "deepshi"]
    assert hook["class"] == "deepshi_provider.hooks.deepshi.DeepshiHook"
    assert {"field_behaviours": "deepshi"} in providers(installed, "behaviours")
    fields = {widget["connection_parameter_name"] for widget in providers(installed, "widgets")}
    expected = {f"extra__deepshi__{name}" for name in INFO["connection-types"][0]["conn-fields"]}
    assert expected <= fields


def test_airflow_lists_links_and_triggers(installed: Environment) -> None:
    links = {link["extra_link_class_name"] for link in providers(installed, "links")}
    assert set(INFO.get("extra-links", [])) <= links
    triggers = {trigger["class"] for trigger in providers(installed, "triggers") if "deepshi" in str(trigger)}
    assert triggers == {name for item in INFO["triggers"] for name in item["python-modules"]}


def test_airflow_loads_the_plugins(installed: Environment) -> None:
    program = "from importlib.metadata import distribution as of; print([e.name for e in of('airflow-provider-deepshi')"
    program += ".entry_points if e.group == 'airflow.plugins'])"
    names = ast.literal_eval(installed.run("python", "-c", program).stdout)
    output = installed.run("airflow", "plugins", "--output", "json").stdout
    assert [name for name in names if name not in output] == []


def test_the_decorator_is_there(installed: Environment) -> None:
    program = "from airflow.sdk import task; print(task.deepshi_image.__module__)"
    assert installed.run("python", "-c", program).stdout.split()[-1] == "deepshi_provider.decorators.images"


def test_without_the_extra_the_emulator_says_what_is_missing(installed: Environment) -> None:
    done = installed.run("python", "-m", "deepshi_provider.emulator", check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'airflow-provider-deepshi[emulator]'\n")


@pytest.mark.timeout(1200)
def test_the_suites_pass_without_the_source(installed_for_tests: Environment, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "packaging")
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests" / "test_where_it_comes_from.py").write_text(
        "import deepshi_provider\n\n\ndef test_it():\n    assert 'site-packages' in deepshi_provider.__file__\n"
    )
    suites = [f"tests/{suite}" for suite in [*SUITES, "test_where_it_comes_from.py"]]
    done = installed_for_tests.run(
        "python", "-m", "pytest", "-q", "-m", "not airflow and not s3", *suites, folder=tmp_path
    )
    assert " passed" in done.stdout.splitlines()[-1]
