"""Errors of configuration fail fast, clearly and for free; Airflow retries only errors that a retry may fix."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    ConnectionFailed,
    DeepshiError,
    InsufficientQuota,
    InvalidConnection,
    InvalidRequest,
    OutcomeUnknown,
    PermissionDenied,
    PreflightFailed,
    RateLimited,
    ResendsExhausted,
    ServerFailed,
    StorageFailed,
    TimedOut,
)
from tests.services.seaweedfs import S3Server
from tests.support.counts import posts
from tests.support.places import Place, S3Place, images
from tests.support.tasks import TaskInstance, edit, execute, generate

DEFAULT = "AIRFLOW_CONN_DEEPSHI_DEFAULT"


def fails(operator: Any, kind: type[DeepshiError], *, retried: bool, **identity: Any) -> tuple[str, TaskInstance]:
    """Run a try that must fail: with the error itself if Airflow should retry, else with ``AirflowFailException``."""
    ti = TaskInstance(task_id=operator.task_id, **identity)
    with pytest.raises(kind if retried else AirflowFailException) as raised:
        execute(operator, ti)
    error = raised.value if retried else raised.value.__cause__
    assert type(error) is kind
    assert str(error) == str(raised.value)
    assert "return_value" not in ti.xcoms
    assert set(ti.xcoms) == {"cost_usd"}
    return str(error), ti


# ------------------------------------------------------------------ nothing is sent


def test_missing_output_uri(emulator: Emulator) -> None:
    message, ti = fails(generate(), InvalidRequest, retried=False)
    assert "set output_uri on the operator, or in the extra of connection 'deepshi_default'" in message
    assert (posts(emulator), ti.xcoms["cost_usd"]) == (0, 0)


@pytest.mark.parametrize("operator", [generate(output_uri="/tmp/x"), generate()])  # noqa: S108
def test_missing_deepshi_connection(monkeypatch: pytest.MonkeyPatch, operator: Any) -> None:
    monkeypatch.delenv(DEFAULT, raising=False)
    message, _ = fails(operator, InvalidConnection, retried=False)
    assert "The connection 'deepshi_default' is not defined" in message


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"password": ""}, "API key"),
        ({"host": "ftp://127.0.0.1"}, "host"),
        ({"host": "http://"}, "host"),
        ({"extra": {"read_timeout": "soon"}}, "read_timeout"),
        ({"extra": {"verify": "/no/such/file.pem"}}, "/no/such/file.pem"),
    ],
)
def test_unusable_deepshi_connection(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], word: str
) -> None:
    monkeypatch.setenv(DEFAULT, json.dumps(json.loads(emulator.connection_json()) | change))
    message, _ = fails(generate(output_uri=local.uri), InvalidConnection, retried=False)
    assert word in message
    assert (posts(emulator), local.names()) == (0, [])


@pytest.mark.parametrize("host", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_host_that_does_not_answer(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    extra = {"max_retries": 1, "max_retry_wait": 0.1}
    monkeypatch.setenv(DEFAULT, json.dumps(json.loads(emulator.connection_json(**extra)) | {"host": host}))
    message, ti = fails(generate(output_uri=local.uri), ConnectionFailed, retried=True)
    assert f"No connection to {host}" in message
    assert (posts(emulator), ti.xcoms["cost_usd"]) == (0, 0)
    assert [name for name in local.names() if not name.endswith(".slot.json")] == []


def test_unwritable_directory(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    message, _ = fails(generate(output_uri=f"{tmp_path}/file/x"), StorageFailed, retried=True)
    assert f"file://{tmp_path}/file/x" in message
    assert posts(emulator) == 0


@pytest.mark.parametrize("uri", ["file:///tmp//x", "x?y", "s3://bucket/a//b", "s3://bucket/a%41", "s3://bucket/x "])
@pytest.mark.parametrize("by_connection", [False, True])
def test_output_uri_that_may_name_two_places(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, uri: str, by_connection: bool
) -> None:
    if by_connection:
        monkeypatch.setenv(DEFAULT, emulator.connection_json(output_uri=uri))
    operator = generate() if by_connection else generate(output_uri=uri)
    message, ti = fails(operator, InvalidRequest, retried=False)
    assert "cannot be used" in message
    assert (posts(emulator), ti.xcoms["cost_usd"]) == (0, 0)


@pytest.mark.s3
def test_missing_bucket(emulator: Emulator, s3: S3Server) -> None:
    operator = generate(output_uri="s3://no-such-bucket/a", output_conn_id="s3_test")
    message, ti = fails(operator, StorageFailed, retried=True)
    assert "s3://no-such-bucket/a" in message
    assert "bucket does not exist" in message
    assert (posts(emulator), ti.xcoms["cost_usd"]) == (0, 0)
    assert [bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]] == ["images"]


@pytest.mark.s3
def test_missing_aws_connection(emulator: Emulator, s3_place: S3Place) -> None:
    message, _ = fails(generate(output_uri=s3_place.uri, output_conn_id="nowhere"), InvalidConnection, retried=False)
    assert "The connection 'nowhere' of the object store is not defined" in message
    assert (posts(emulator), s3_place.names()) == (0, [])


@pytest.mark.s3
def test_wrong_s3_credentials(emulator: Emulator, s3_place: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = json.loads(s3_place.server.airflow_connection_json()) | {"password": "wrong-password"}
    monkeypatch.setenv("AIRFLOW_CONN_S3_WRONG_KEY", json.dumps(wrong))
    message, _ = fails(generate(output_uri=s3_place.uri, output_conn_id="s3_wrong_key"), StorageFailed, retried=True)
    assert "wrong-password" not in message
    assert (posts(emulator), s3_place.names()) == (0, [])


@pytest.mark.parametrize(
    ("source", "word"),
    [("/no/such.png", "does not exist"), ("/etc/hostname", "is not a PNG, JPEG or WebP image"), ("/etc", "not exist")],
)
def test_input_image_that_is_none(emulator: Emulator, local: Place, source: str, word: str) -> None:
    message, _ = fails(edit(images=source, output_uri=local.uri), InvalidRequest, retried=False)
    assert source in message
    assert word in message
    assert (posts(emulator), local.names()) == (0, [])


def test_no_input_image(emulator: Emulator, local: Place) -> None:
    message, _ = fails(edit(images=[], output_uri=local.uri), InvalidRequest, retried=False)
    assert "images" in message
    assert posts(emulator) == 0


def test_preflight_refuses_by_default(emulator: Emulator, local: Place) -> None:
    operator = generate(output_uri=local.uri, aspect_ratio="16:9")
    message, _ = fails(operator, PreflightFailed, retried=False)
    assert "ignores aspect_ratio" in message
    assert posts(emulator) == 0


def test_an_expired_deadline(emulator: Emulator, local: Place) -> None:
    _, ti = fails(generate(output_uri=local.uri, generation_timeout=0), TimedOut, retried=True)
    assert (posts(emulator), ti.xcoms["cost_usd"]) == (0, 0)


# ------------------------------------------------------------------ the server refuses or fails


@pytest.mark.parametrize(
    ("status", "kind", "sends", "retried"),
    [
        (400, InvalidRequest, 1, False),
        (401, AuthenticationFailed, 1, False),
        (402, InsufficientQuota, 1, False),
        (403, PermissionDenied, 1, False),
        (429, RateLimited, 2, True),
        (500, ServerFailed, 2, True),
        (502, ServerFailed, 2, True),
        (503, ServerFailed, 2, True),
        (504, OutcomeUnknown, 1, True),
        (524, OutcomeUnknown, 1, True),
    ],
)
def test_every_row_of_the_error_table(
    emulator: Emulator,
    local: Place,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[DeepshiError],
    sends: int,
    retried: bool,
) -> None:
    monkeypatch.setenv(DEFAULT, emulator.connection_json(max_retries=1, max_retry_wait=0.05))
    emulator.fault("status", status=status, times=None, message=f"your key is {emulator.api_key}")
    message, _ = fails(generate(output_uri=local.uri), kind, retried=retried)
    assert f"HTTP {status}" in message
    assert emulator.api_key not in message
    assert (posts(emulator), images(local)) == (sends, [])


def test_unknown_outcome_is_retried_only_as_often_as_allowed(emulator: Emulator, local: Place) -> None:
    emulator.fault("cut", times=None)
    never = generate(output_uri=local.uri, max_resends=0)
    fails(never, OutcomeUnknown, retried=False)
    message, _ = fails(never, ResendsExhausted, retried=False, try_number=2)
    assert f"{local.uri}/_deepshi/image.1." in message
    assert posts(emulator) == 1
    once = generate(output_uri=local.uri, max_resends=1)
    fails(once, OutcomeUnknown, retried=False, try_number=3)
    assert posts(emulator) == 2


@pytest.mark.parametrize("max_resends", [1, 3])
def test_callbacks_find_the_costs_on_the_error_whether_or_not_it_is_retried(
    emulator: Emulator,
    local: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    max_resends: int,
) -> None:
    monkeypatch.setenv(DEFAULT, emulator.connection_json(output_uri=local.uri))
    execute(generate(task_id="known", prompt="known"), TaskInstance(task_id="known", run_id="sunday"))
    price = Decimal(emulator.stats()["cost_usd"])
    emulator.fault("cut", times=2, charged=True)
    for number, is_final in ((1, False), (2, max_resends == 1)):
        ti = TaskInstance(task_id="boat", try_number=number)
        with pytest.raises(OutcomeUnknown) as raised:
            execute(generate(max_resends=max_resends), ti)
        error = raised.value
        assert (AirflowFailException in type(error).__mro__) == is_final
        assert (error.charged, error.cost_usd, error.may_have_cost_usd) == ("unknown", Decimal(0), number * price)
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own bytes
        assert (type(copy), str(copy), copy.may_have_cost_usd) == (type(error), str(error), error.may_have_cost_usd)
        assert ti.sheets[-1].may_have_cost_usd == number * price
    words = f"This task instance has cost at least $0, up to about ${2 * price:f} (2 unknown outcomes) so far"
    assert words in capsys.readouterr().out
    assert Decimal(emulator.stats()["cost_usd"]) == 3 * price


def test_first_lost_answer_allows_a_retry(emulator: Emulator, local: Place) -> None:
    emulator.fault("cut")
    fails(generate(output_uri=local.uri), OutcomeUnknown, retried=True)
