"""The wheel in a separate environment, without extras and without access to the source."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepshi_provider import __version__
from deepshi_provider.get_provider_info import get_provider_info
from tests.packaging.conftest import Environment

pytestmark = [pytest.mark.airflow, pytest.mark.packaging, pytest.mark.timeout(600)]

INFO = get_provider_info()

#: Airflow commands that run one after another in one process, and print their results.
PROGRAM = """
import contextlib, importlib.metadata, io, json

import deepshi_provider
from airflow.cli.cli_parser import get_parser
from airflow.sdk import task


def printed(*arguments):
    options = get_parser().parse_args([*arguments, "--output", "json"])
    with contextlib.redirect_stdout(io.StringIO()) as output:
        options.func(options)
    text = output.getvalue()
    return json.loads(text[text.index("[") :])


names = ["list", "hooks", "behaviours", "widgets", "links", "triggers"]
found = {name: printed("providers", name) for name in names}
found["get"] = printed("providers", "get", "airflow-provider-deepshi", "--full")
found["plugins"] = printed("plugins")
found["file"] = deepshi_provider.__file__
found["decorator"] = task.deepshi_image.__module__
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(installed: Environment) -> dict[str, Any]:
    """Airflow's information about the provider, by the last word of the command."""
    printed: dict[str, Any] = json.loads(installed.run("python", "-c", PROGRAM).stdout.splitlines()[-1])
    return printed


def test_the_package_comes_from_the_wheel(found: dict[str, Any], installed: Environment) -> None:
    assert "site-packages" in found["file"]
    assert found["file"].startswith(str(installed.folder))
    assert list(installed.folder.rglob("deepshi_provider/py.typed"))


def test_airflow_lists_the_provider(found: dict[str, Any]) -> None:
    (entry,) = [p for p in found["list"] if p["package_name"] == "airflow-provider-deepshi"]
    assert entry["version"] == __version__
    (provider,) = found["get"]
    assert (provider["name"], provider["operators"], provider["hooks"]) == ("Deepshi", INFO["operators"], INFO["hooks"])


def test_airflow_lists_the_connection_type(found: dict[str, Any]) -> None:
    (hook,) = [hook for hook in found["hooks"] if hook["connection_type"] == "deepshi"]
    assert hook["class"] == "deepshi_provider.hooks.deepshi.DeepshiHook"
    assert {"field_behaviours": "deepshi"} in found["behaviours"]
    fields = {widget["connection_parameter_name"] for widget in found["widgets"]}
    expected = {f"extra__deepshi__{name}" for name in INFO["connection-types"][0]["conn-fields"]}
    assert expected <= fields


def test_airflow_lists_links_triggers_and_plugins(found: dict[str, Any]) -> None:
    links = {link["extra_link_class_name"] for link in found["links"]}
    assert set(INFO.get("extra-links", [])) <= links
    triggers = {trigger["class"] for trigger in found["triggers"] if "deepshi" in str(trigger)}
    assert triggers == {name for item in INFO["triggers"] for name in item["python-modules"]}
    assert "deepshi_costs" in str(found["plugins"])


def test_the_decorator_is_there(found: dict[str, Any]) -> None:
    assert found["decorator"] == "deepshi_provider.decorators.images"


def test_without_the_extra_the_emulator_says_what_is_missing(installed: Environment) -> None:
    """Airflow's own dependencies include everything but TLS."""
    done = installed.run("python", "-m", "deepshi_provider.emulator", "--port", "0", "--tls", check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'airflow-provider-deepshi[emulator]'\n")
