"""The provider's metadata in Airflow, and the connection form."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package that nothing else needs
import pytest

from deepshi_provider.client.settings import Settings
from deepshi_provider.get_provider_info import get_provider_info
from deepshi_provider.hooks.deepshi import DeepshiHook

ROOT = Path(__file__).parents[1]
INFO = get_provider_info()
(CONNECTION_TYPE,) = INFO["connection-types"]

# Prints the API server's response for the connection form, from a process in which this provider is installed.
FORM = """
import json, pathlib, sys, warnings
from airflow.exceptions import AirflowProviderDeprecationWarning
warnings.simplefilter("error", AirflowProviderDeprecationWarning)
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
(meta,) = [meta for meta in HookMetaService.hook_meta_data() if meta.connection_type == "deepshi"]
from airflow.providers_manager import ProvidersManager
hook = ProvidersManager().hooks["deepshi"]
found = {"meta": meta.model_dump(mode="json"), "hook": hook._asdict()}
pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
"""
INSTALLED = {
    "METADATA": "Metadata-Version: 2.1\nName: airflow-provider-deepshi\nVersion: 0\n",
    "entry_points.txt": "[apache_airflow_provider]\n"
    "provider_info = deepshi_provider.get_provider_info:get_provider_info\n",
}


def test_metadata_has_the_form_that_airflow_expects() -> None:
    schema = json.loads(importlib.resources.files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)
    assert INFO["package-name"] == "airflow-provider-deepshi"


def test_keys_are_written_with_hyphens() -> None:
    """Airflow silently ignores keys with an underscore."""

    def keys(value: Any) -> list[str]:
        if isinstance(value, list):
            return [key for item in value for key in keys(item)]
        return [*value, *keys(list(value.values()))] if isinstance(value, dict) else []

    fields = set(CONNECTION_TYPE["conn-fields"])
    assert [key for key in keys(INFO) if "_" in key and key not in fields] == []


def test_all_that_is_named_exists() -> None:
    modules = [
        name for part in ("operators", "hooks", "triggers") for item in INFO[part] for name in item["python-modules"]
    ]
    assert modules
    for name in modules:
        importlib.import_module(name)
    integrations = {item["integration-name"] for item in INFO["integrations"]}
    assert {
        item["integration-name"] for part in ("operators", "hooks", "triggers") for item in INFO[part]
    } <= integrations
    module, _, name = CONNECTION_TYPE["hook-class-name"].rpartition(".")
    hook = getattr(importlib.import_module(module), name)
    assert hook is DeepshiHook
    assert (CONNECTION_TYPE["connection-type"], CONNECTION_TYPE["hook-name"]) == (hook.conn_type, hook.hook_name)
    # Airflow creates a hook from a connection with this argument.
    assert hook.conn_name_attr in inspect.signature(hook).parameters


def test_every_extra_has_a_field_and_every_field_is_read() -> None:
    read = set(Settings.model_fields) - {"conn_id", "base_url", "api_key"}
    assert set(CONNECTION_TYPE["conn-fields"]) == read


def test_package_root_imports_nothing() -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "import deepshi_provider.get_provider_info as info; info.get_provider_info()\n"
        "print(*sorted(name.partition('.')[0] for name in set(sys.modules) - before))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) == {"deepshi_provider"}


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The connection form from Airflow's API server."""
    folder = tmp_path_factory.mktemp("installed")
    metadata = folder / "airflow_provider_deepshi-0.dist-info"
    metadata.mkdir()
    for name, text in INSTALLED.items():
        (metadata / name).write_text(text)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    answer = folder / "form.json"
    command = [sys.executable, "-c", FORM, str(answer)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deepshi_provider" not in done.stderr, done.stderr  # Airflow only logs what it cannot use
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


@pytest.mark.slow
def test_airflow_knows_the_hook(form: dict[str, Any]) -> None:
    assert form["hook"] == {
        "hook_class_name": "deepshi_provider.hooks.deepshi.DeepshiHook",
        "connection_id_attribute_name": "deepshi_conn_id",
        "package_name": "airflow-provider-deepshi",
        "hook_name": "Deepshi",
        "connection_type": "deepshi",
        "connection_testable": True,
    } | {name: form["hook"][name] for name in form["hook"] if name == "dialects"}


@pytest.mark.slow
def test_form_shows_what_a_connection_needs(form: dict[str, Any]) -> None:
    standard = form["meta"]["standard_fields"]
    assert standard["password"] == {"hidden": False, "title": "API key", "placeholder": "sk-bf-…"}
    assert standard["host"] == {"hidden": False, "title": "Base URL", "placeholder": "https://api.deepshi.ai"}
    hidden = {name for name, field in standard.items() if field and field["hidden"]}
    assert hidden == {"url_schema", "login", "port"}
    fields = form["meta"]["extra_fields"]
    declared = CONNECTION_TYPE["conn-fields"]
    assert {name: field["description"] for name, field in fields.items()} == {
        name: field["description"] for name, field in declared.items()
    }
    assert [field["schema"]["title"] for field in fields.values()] == [field["label"] for field in declared.values()]
    assert all("null" in field["schema"]["type"] for field in fields.values())  # none must be filled in
    assert fields["max_retries"]["schema"]["type"] == ["integer", "null"]


def test_key_is_hidden_as_airflow_hides_passwords() -> None:
    """The key is the password, which Airflow's form and API mask; no field of the extra holds another secret."""
    words = ("key", "password", "secret", "token")
    assert [name for name in CONNECTION_TYPE["conn-fields"] if any(word in name for word in words)] == []
    assert "password" not in CONNECTION_TYPE["ui-field-behaviour"]["hidden-fields"]


def test_hook_has_the_same_form_for_airflow_3_1() -> None:
    assert DeepshiHook.get_ui_field_behaviour() == {
        "hidden_fields": ["schema", "login", "port"],
        "relabeling": {"password": "API key", "host": "Base URL"},
        "placeholders": {"password": "sk-bf-…", "host": "https://api.deepshi.ai"},
    }
    # Airflow 3.1 looks at the class itself only.
    assert {"get_ui_field_behaviour", "get_connection_form_widgets"} <= set(vars(DeepshiHook))


def test_hook_makes_its_widgets_only_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    class Fields:
        """Airflow 3.1's replacement of wtforms in its API server."""

        StringField = HookMetaService.MockStringField
        IntegerField = HookMetaService.MockIntegerField
        Optional = HookMetaService.MockOptional

    monkeypatch.setitem(sys.modules, "wtforms", Fields)
    monkeypatch.setitem(sys.modules, "wtforms.validators", Fields)
    widgets = DeepshiHook.get_connection_form_widgets()
    schemas = {name: widget.param.dump()["schema"] for name, widget in widgets.items()}
    assert list(schemas) == list(CONNECTION_TYPE["conn-fields"])
    assert schemas["max_retries"] == {"title": "Retries", "type": ["integer", "null"]}
    assert schemas["verify"] == {"title": "Verify TLS", "type": ["string", "null"]}


@pytest.mark.slow
def test_hook_needs_no_wtforms() -> None:
    program = "import sys, deepshi_provider.hooks.deepshi; print('wtforms' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
