"""Airflow connections in every notation, and the errors of invalid ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from airflow.sdk import Connection

from deepshi_provider.client.settings import Settings
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import ConnectionFailed, InvalidConnection
from deepshi_provider.hooks.connection import settings_of
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.services.authority import Authority
from tests.support.servers import KEY, asked_of_a_proxy, boat, http_proxy

ROOT = Path(__file__).parents[2]
EXTRA: dict[str, Any] = {
    "output_uri": "s3://bucket/deepshi",
    "output_conn_id": "my_s3",
    "connect_timeout": 2.5,
    "read_timeout": 30,
    "max_retries": 7,
    "max_retry_wait": 1.5,
    "verify": False,
    "proxy": "http://proxy.example:3128",
    "max_cost_usd_per_day": 2.5,
    "max_cost_usd_per_month": 40,
    "budget_time_zone": "Europe/Berlin",
    "warn_at": 0.5,
}


def settings(**fields: Any) -> Settings:
    if isinstance(fields.get("extra"), dict):
        fields["extra"] = json.dumps(fields["extra"])
    return settings_of(Connection(**{"conn_id": "c", "conn_type": "deepshi", "password": KEY, **fields}))


async def read(monkeypatch: pytest.MonkeyPatch, value: str) -> Settings:
    monkeypatch.setenv("AIRFLOW_CONN_MY_DEEPSHI", value)
    return await DeepshiHook("my_deepshi").asettings()


def expected(base_url: str = "https://api.deepshi.ai", **extra: Any) -> dict[str, Any]:
    defaults = {"connect_timeout": 10, "read_timeout": 90, "max_retries": 3, "max_retry_wait": 60, "verify": True}
    missing = {"output_uri": None, "output_conn_id": None, "proxy": None}
    missing |= {"max_cost_usd_per_day": None, "max_cost_usd_per_month": None, "budget_groups": None}
    budgets = {"budget_time_zone": "UTC", "warn_at": Decimal("0.8")}
    return {
        "conn_id": "my_deepshi",
        "base_url": base_url,
        "keep_prompts": True,
        **defaults,
        **missing,
        **budgets,
        **extra,
    }


def fields_of(found: Settings) -> dict[str, Any]:
    assert found.api_key.get_secret_value() == KEY
    return found.model_dump(exclude={"api_key"})


async def test_a_key_alone_is_a_valid_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (json.dumps({"conn_type": "deepshi", "password": KEY}), f"deepshi://:{KEY}@", f"deepshi://:{KEY}@/"):
        assert fields_of(await read(monkeypatch, value)) == expected()


async def test_connection_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "deepshi", "password": KEY, "host": "https://gateway.example/v1"}
    for extra in (EXTRA, json.dumps(EXTRA), {name: str(value) for name, value in EXTRA.items()}):
        found = await read(monkeypatch, json.dumps({**connection, "extra": extra}))
        assert fields_of(found) == expected("https://gateway.example", **EXTRA)


async def test_connection_as_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in (EXTRA, {"__extra__": json.dumps(EXTRA)}):
        value = f"deepshi://:{KEY}@{quote('https://gateway.example', safe='')}/?{urlencode(extra)}"
        assert fields_of(await read(monkeypatch, value)) == expected("https://gateway.example", **EXTRA)


@pytest.mark.parametrize(
    ("address", "base_url"),
    [
        ("gateway.example", "https://gateway.example"),
        ("gateway.example:8443", "https://gateway.example:8443"),
        ("gateway.example:8710/http", "http://gateway.example:8710"),
        ("http%3A%2F%2F127.0.0.1%3A8710", "http://127.0.0.1:8710"),
        ("http%3A%2F%2F127.0.0.1:8710", "http://127.0.0.1:8710"),
        ("gateway.example/v1", "https://gateway.example"),
        ("[::1]:8710/http", "http://[::1]:8710"),
    ],
)
async def test_address_in_a_uri(monkeypatch: pytest.MonkeyPatch, address: str, base_url: str) -> None:
    assert fields_of(await read(monkeypatch, f"deepshi://:{KEY}@{address}")) == expected(base_url)


@pytest.mark.parametrize("extra", [{}, EXTRA])
async def test_connection_that_airflow_converts_to_a_uri_stays_the_same(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    # Airflow's cache of secrets keeps connections as URIs.
    text = json.dumps(extra)
    connection = Connection(conn_id="x", conn_type="deepshi", password=KEY, host="http://127.0.0.1:8710/v1", extra=text)
    assert fields_of(await read(monkeypatch, connection.get_uri())) == expected("http://127.0.0.1:8710", **extra)


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, "https://api.deepshi.ai"),
        ({"host": ""}, "https://api.deepshi.ai"),
        ({"host": "api.deepshi.ai"}, "https://api.deepshi.ai"),
        ({"host": " https://api.deepshi.ai/v1/ "}, "https://api.deepshi.ai"),
        ({"host": "https://api.deepshi.ai/"}, "https://api.deepshi.ai"),
        ({"host": "api.deepshi.ai/v1"}, "https://api.deepshi.ai"),
        ({"host": "http://localhost:8710"}, "http://localhost:8710"),
        ({"host": "http://localhost:8710/v1"}, "http://localhost:8710"),
        ({"host": "localhost", "port": 8710, "schema": "http"}, "http://localhost:8710"),
        ({"host": "http://localhost", "port": 8710}, "http://localhost:8710"),
        ({"host": "http://localhost:1", "port": 8710}, "http://localhost:1"),
        ({"host": "localhost:8710", "schema": "http"}, "http://localhost:8710"),
        ({"host": "https://gateway.example/deepshi/v1"}, "https://gateway.example/deepshi"),
        ({"host": "http://[::1]:8710/v1"}, "http://[::1]:8710"),
        ({"host": "[2001:db8::1]:8710"}, "https://[2001:db8::1]:8710"),
        ({"host": "::1", "port": 8710}, "https://[::1]:8710"),
        ({"host": "HTTPS://API.Deepshi.AI"}, "https://api.deepshi.ai"),
    ],
)
def test_host_may_be_written_in_many_ways(fields: dict[str, Any], base_url: str) -> None:
    assert settings(**fields).base_url == base_url


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"password": None}, "API key"),
        ({"password": ""}, "API key"),
        ({"password": "  \n"}, "API key"),
        ({"password": "sk-bf-one\nsk-bf-two"}, "API key"),
        ({"password": "sk-bf-one\r\nX-Header: 1"}, "API key"),
        ({"password": "sk-bf-one two"}, "API key"),
        ({"password": "sk-bf-ü"}, "API key"),
        ({"host": "ftp://api.deepshi.ai"}, "host"),
        ({"host": "https://"}, "host"),
        ({"host": "https://api.deepshi.ai:port"}, "host"),
        ({"host": "https://api.deepshi.ai:99999"}, "host"),
        ({"host": "https://[::1"}, "host"),
        ({"host": "https://two words.example"}, "host"),
        ({"host": "https://tab\x01.example"}, "host"),
        ({"extra": "{not json"}, "extra"),
        ({"extra": "[1]"}, "extra"),
        ({"extra": '"text"'}, "extra"),
        ({"extra": {"connect_timeout": "soon"}}, "connect_timeout"),
        ({"extra": {"connect_timeout": 0}}, "connect_timeout"),
        ({"extra": {"read_timeout": -1}}, "read_timeout"),
        ({"extra": {"read_timeout": "nan"}}, "read_timeout"),
        ({"extra": {"max_retries": -1}}, "max_retries"),
        ({"extra": {"max_retries": 1.5}}, "max_retries"),
        ({"extra": {"max_retry_wait": []}}, "max_retry_wait"),
        ({"extra": {"verify": {}}}, "verify"),
        ({"extra": {"proxy": "proxy.example:3128"}}, "proxy"),
        ({"extra": {"proxy": "ftp://user:secret@proxy.example"}}, "proxy"),
        ({"extra": {"proxy": "http://"}}, "proxy"),
        ({"extra": {"proxy": "http://proxy.example:port"}}, "proxy"),
        ({"extra": {"output_uri": 5}}, "output_uri"),
    ],
    ids=str,
)
def test_mistake_is_named(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidConnection) as caught:
        settings(**fields)
    assert caught.value.message.startswith("Connection 'c'")
    assert names in caught.value.message
    assert caught.value.charged == "no"
    for secret in (KEY, "sk-bf-one", "secret"):
        assert secret not in str(caught.value)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(InvalidConnection, match=r"read_timeout: .*; max_retries: "):
        settings(extra={"max_retries": "x", "read_timeout": "y"})


def test_white_space_around_the_key_is_ignored() -> None:
    assert settings(password=f" {KEY}\n").api_key.get_secret_value() == KEY


def test_empty_and_unknown_extras_are_ignored() -> None:
    extra = dict.fromkeys(EXTRA, "") | {
        "unknown": 5,
        "timeout": 5,
        "verify_ssl": True,
        "output_urls": None,
        "api_key": "sk-bf-other",
        "base_url": "http://evil",
        "verify": None,
    }
    assert fields_of(settings(conn_id="my_deepshi", extra=extra)) == expected()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_cost_usd_per_dya", "max_cost_usd_per_day"),
        ("Max_Retries", "max_retries"),
        ("output_url", "output_uri"),
        ("budget_group", "budget_groups"),
    ],
)
def test_a_name_with_a_typo_is_refused(name: str, meant: str) -> None:
    with pytest.raises(InvalidConnection, match=f"'{name}' in its extra is not a setting. Did you mean {meant}"):
        settings(extra={name: 1})


@pytest.mark.parametrize(
    ("value", "verify"),
    [("false", False), ("False", False), ("0", False), (0, False), ("true", True), (1, True), ("/ca.pem", "/ca.pem")],
)
def test_verify_may_be_text(value: object, verify: bool | str) -> None:
    assert settings(extra={"verify": value}).verify == verify


def test_secrets_are_not_shown() -> None:
    found = settings(extra={"proxy": "http://user:secret@proxy.example:3128"})
    shown = f"{found!r} {found} {found.model_dump()['api_key']} {found.account} {found.new_client().headers!r}"
    assert KEY not in shown
    assert "secret" not in shown


@pytest.mark.parametrize("ca_file", ["missing.pem", "empty.pem", "text.pem", "."])
async def test_ca_file_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, emulator: Emulator, tmp_path: Path, ca_file: str
) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "text.pem").write_text("no certificate")
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(verify=str(tmp_path / ca_file)))
    with pytest.raises(InvalidConnection, match=r"verify.*cannot be read"):
        await DeepshiHook().agenerate(boat())
    assert emulator.stats()["posts"] == 0


def test_missing_connection_is_named_and_nothing_is_sent(emulator: Emulator) -> None:
    with pytest.raises(InvalidConnection, match="The connection 'not_defined' is not defined") as caught:
        DeepshiHook("not_defined").generate(boat())
    assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("no", 0, 0)


@pytest.mark.parametrize("scheme", ["https"])
def test_verify_decides_how_certificates_are_checked(
    emulator: Emulator, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images(**extra: object) -> int:
        connection = json.loads(emulator.connection_json()) | {"extra": {"max_retries": 0, **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", json.dumps(connection))
        with DeepshiHook().generate(boat(stream=True)) as result:
            return len(result.images)

    for distrustful in ({}, {"verify": True}, {"verify": str(authority.ca_file)}):  # another's
        with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED") as caught:
            images(**distrustful)
        assert (caught.value.charged, caught.value.sends, emulator.stats()["posts"]) == ("no", 0, 0)
    assert images(verify=False) == images(verify="false") == images(verify=emulator.ca_file) == 1
    assert emulator.stats()["posts"] == 3


def test_proxy_is_used(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_proxy() as (proxy, seen):
        monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(proxy=proxy))
        DeepshiHook().generate(boat()).close()
    assert seen == [asked_of_a_proxy(emulator.base_url)]
    assert emulator.stats()["posts"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["https"])
def test_secrets_backend_provides_the_connection(emulator: Emulator, tmp_path: Path) -> None:
    file = tmp_path / "connections.json"
    file.write_text(json.dumps({"from_backend": json.loads(emulator.connection_json(max_retries="1"))}))
    program = (
        "from deepshi_provider.hooks.deepshi import DeepshiHook\n"
        "from deepshi_provider.api.requests import GenerateRequest\n"
        "request = GenerateRequest(model='deepshi-banana-pro', prompt='a boat', width=64, height=48)\n"
        "with DeepshiHook('from_backend').generate(request) as result:\n"
        "    print('made', result.images[0].sha256)\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")} | {
        "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(file)}),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "made " in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert emulator.stats()["images"] == 1
