"""Invalid configuration is refused before a claim, with a message that says what to change and shows no secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import ObjectStoragePath

from deepshi_provider.api.texts import missing_support, shown_uri
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import InvalidConnection, InvalidRequest, StorageFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.operators.images import DeepshiGenerateImageOperator, DeepshiGenerateImagesOperator
from tests.support.batches import batch, counts, ended, result_of, rows_of
from tests.support.counts import posts
from tests.support.places import LocalPlace, Place
from tests.support.tasks import TaskInstance, edit, execute, generate

DEFAULT = "AIRFLOW_CONN_DEEPSHI_DEFAULT"


def refused(operator: Any, kind: type[Exception], emulator: Emulator, place: Place | None = None) -> str:
    """Run a try that must fail for free before anything is written, without a retry; return its message."""
    ti = TaskInstance(task_id=operator.task_id)
    with pytest.raises(AirflowFailException) as raised:
        execute(operator, ti)
    assert type(raised.value.__cause__) is kind
    assert (posts(emulator), ti.xcoms) == (0, {"cost_usd": 0.0})
    assert place is None or [name for name in place.names() if "claim" in name or "record" in name] == []
    return str(raised.value)


def batch_of_two(output_uri: Any, output_conn_id: Any = None, **fields: Any) -> DeepshiGenerateImagesOperator:
    given = {"requests": rows_of(2), "output_uri": output_uri, "output_conn_id": output_conn_id, **fields}
    return DeepshiGenerateImagesOperator(task_id="catalog", **given)


def edit_of_one(**fields: Any) -> Any:
    return edit(images=["in.png"], **fields)


HOSTS = [
    "a..b",
    ".example",
    "-",
    "-a.example",
    "a-.example",
    "exa mple",
    "exa$mple.example",
    "a" * 64 + ".example",
    ".".join(["a" * 60] * 5),
    "300.300.300.300",
    "1.2.3",
    "https://:8443",
    "https://host.example:0",
    "https://[::g]",
    "https://ex\u2028ample",
    "https://example.com%00",
    "http://*.example",
]


@pytest.mark.parametrize("host", HOSTS)
def test_an_invalid_host_is_refused(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv(DEFAULT, json.dumps({**json.loads(emulator.connection_json()), "host": host, "port": None}))
    message = refused(generate(output_uri=local.uri), InvalidConnection, emulator, local)
    assert "Connection 'deepshi_default': the host " in message
    assert "is not an HTTP address" in message


@pytest.mark.parametrize("port", [-1, 65536])
def test_an_invalid_port_is_refused(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    connection = {**json.loads(emulator.connection_json()), "host": "127.0.0.1", "port": port}
    monkeypatch.setenv(DEFAULT, json.dumps(connection))
    assert f"port {port} does not exist" in refused(generate(output_uri=local.uri), InvalidConnection, emulator, local)


@pytest.mark.parametrize("variable", ["ALL_PROXY", "HTTPS_PROXY"])
@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://user:secret@127.0.0.1:1080",
        "socks4a://127.0.0.1",
        "ftp://proxy",
        "http://",
        "http://a..b:1",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:port",
    ],
)
def test_an_unusable_proxy_from_the_environment_is_refused(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str
) -> None:
    for name in ("NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, proxy)
    message = refused(generate(output_uri=local.uri), InvalidConnection, emulator, local)
    assert f"environment variable {variable} is not the URL of an HTTP proxy" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("policy", "value", "message"),
    [
        ("max_resends", -1, "max_resends: must be at least 0, got '-1'"),
        ("max_resends", "many", "max_resends: a whole number is needed, got 'many'"),
        ("max_resends", 1.5, "max_resends: a whole number is needed, got '1.5'"),
        ("generation_timeout", -1, "generation_timeout: seconds are needed, 0 or more, got '-1'"),
        ("generation_timeout", "soon", "generation_timeout: seconds are needed, 0 or more, got 'soon'"),
        ("generation_timeout", float("inf"), "generation_timeout: seconds"),
        ("generation_timeout", None, "generation_timeout: seconds"),
        ("generation_timeout", 1e300, "generation_timeout: at most 31,622,400 s are possible, got 1e+300"),
        ("generation_timeout", "1e14", "generation_timeout: at most 31,622,400 s are possible, got 1e+14"),
        ("preflight", "maybe", "preflight: must be 'error', 'warn' or 'off', got 'maybe'"),
        ("reuse", "perhaps", "reuse: true or false is needed, got 'perhaps'"),
        ("stream", "perhaps", "stream: True, False or None is needed, got 'perhaps'"),
        ("max_run_cost_usd", "much", "max_run_cost_usd: an amount in USD is needed, got 'much'"),
        *[
            ("max_run_cost_usd", usd, f"max_run_cost_usd: an amount in USD is needed, got '{usd}'")
            for usd in ("1E-999999", "0E-999999", "1E+999999", "1E-31", "1E+30")
        ],
    ],
)
@pytest.mark.parametrize("kind", ["single", "batch"])
def test_an_invalid_policy_is_refused(
    emulator: Emulator, local: Place, policy: str, value: Any, message: str, kind: str
) -> None:
    fields = {policy: value, "output_uri": local.uri}
    operator = generate(**fields) if kind == "single" else batch(local, rows_of(2), **fields)
    assert message in refused(operator, InvalidRequest, emulator, local)


@pytest.mark.parametrize(
    ("policy", "value", "message"),
    [
        ("max_concurrency", 0, "max_concurrency: must be at least 1, got '0'"),
        ("on_error", "ignore", "on_error: must be 'fail' or 'partial', got 'ignore'"),
        *[
            ("max_failed", value, "max_failed: a whole number or a share below 1")
            for value in (-1, 1.5, 1.0, "5%", "nan")
        ],
        ("max_failed", True, "max_failed: a whole number or a share below 1, such as 0.05, is needed, got 'True'"),
        ("max_cost_usd", "-1", "max_cost_usd: an amount in USD is needed, got '-1'"),
    ],
)
def test_an_invalid_policy_of_a_batch_is_refused(
    emulator: Emulator, local: Place, policy: str, value: Any, message: str
) -> None:
    assert message in refused(batch(local, rows_of(2), **{policy: value}), InvalidRequest, emulator, local)


@pytest.mark.parametrize(
    "wrong", [5, 1.5, True, ["x"], {"a": 1}, b"x", object()], ids=lambda wrong: type(wrong).__name__
)
@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("make", [generate, edit_of_one, batch_of_two], ids=["generate", "edit", "batch"])
@pytest.mark.parametrize("field", ["output_uri", "output_conn_id"])
def test_a_place_that_is_not_text_is_refused(  # it would be a directory named 5 in the worker's working directory
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., Any],
    field: str,
    deferrable: bool,
    wrong: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    place = {"output_uri": str(tmp_path / "images"), field: wrong}
    message = refused(make(**place, deferrable=deferrable), InvalidRequest, emulator)
    assert (
        f"{field}: {'the id of a connection' if field == 'output_conn_id' else 'a URI or a path'} is needed" in message
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [str, Path, ObjectStoragePath])
def test_a_place_may_be_a_path(emulator: Emulator, local: LocalPlace, make: Callable[[str], Any]) -> None:
    value = execute(generate(output_uri=make(str(local.path)), preflight="off"), TaskInstance(task_id="boat"))
    assert value["images"][0]["uri"] == f"file://{local.path}/image-0.png"


def test_a_name_with_a_null_character_is_an_error_of_its_row(emulator: Emulator, local: Place) -> None:
    rows = [{"key": "a", "prompt": "blue", "images": ["a\0.png"]}]
    _, err = ended(batch(local, rows))
    assert isinstance(err, AirflowFailException)
    assert ("a: " in str(err), posts(emulator)) == (True, 0)


def test_more_concurrency_than_rows_needs_no_more_memory(emulator: Emulator, local: Place) -> None:
    assert counts(result_of(batch(local, rows_of(2), max_concurrency=10**12))) == (2, 0, 0, 0)


@pytest.mark.parametrize("usd", [float("nan"), "much", "1E-999999", -1])
def test_a_tools_limit_that_is_no_amount_is_refused(emulator: Emulator, usd: Any) -> None:
    with pytest.raises(InvalidRequest, match="max_cost_usd: an amount in USD is needed"):
        DeepshiHook().draw("a boat", max_cost_usd=usd)
    assert posts(emulator) == 0


def test_a_connections_limit_has_few_digits(emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = emulator.connection_json(max_cost_usd_per_day="1E-999999", output_uri=local.uri)
    monkeypatch.setenv(DEFAULT, connection)
    message = refused(generate(output_uri=local.uri), InvalidConnection, emulator, local)
    assert "max_cost_usd_per_day" in message
    assert len(message) < 500


# ------------------------------------------------------------------ what to change


def test_a_connection_of_another_type_is_named(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEFAULT, json.dumps({**json.loads(emulator.connection_json()), "conn_type": "http"}))
    message = refused(generate(output_uri=local.uri), InvalidConnection, emulator, local)
    assert "Connection 'deepshi_default' is of type http, not deepshi" in message


def test_an_error_about_a_store_names_the_package_to_install(emulator: Emulator) -> None:
    """The test environment has no provider for Google's storage."""
    message = refused(generate(output_uri="gs://bucket/images"), InvalidConnection, emulator)
    assert "nothing was sent" in message
    assert "pip install apache-airflow-providers-google" in message
    message = refused(edit(images="gs://bucket/in.png", output_uri="gs://bucket/images"), InvalidConnection, emulator)
    assert "pip install apache-airflow-providers-google" in message


def test_the_extra_for_s3_is_named() -> None:
    error = ValueError("No filesystem registered for scheme s3")
    assert "pip install 'airflow-provider-deepshi[amazon]'" in str(missing_support("s3://bucket/a", error))
    assert missing_support("s3://bucket/a", ValueError("something else")) is None


def test_too_many_input_images_are_counted(emulator: Emulator, local: Place) -> None:
    message = refused(
        edit(images=[f"{n}.png" for n in range(15)], output_uri=local.uri), InvalidRequest, emulator, local
    )
    assert "images: at most 14 are allowed, got 15" in message


@pytest.mark.parametrize("column", ["sku", "widht", "Prompt", "price_usd"])
def test_an_error_about_an_unknown_column_lists_the_known_ones(emulator: Emulator, local: Place, column: str) -> None:
    message = refused(batch(local, [{"prompt": "a cup", column: 1}]), InvalidRequest, emulator, local)
    assert f"Row 1: unknown column '{column}'" in message
    assert "The columns are aspect_ratio, extra_params, height," in message
    assert "list them in carry" in message
    meant = {"widht": "width", "Prompt": "prompt"}.get(column)
    assert (f"Did you mean {meant}?" in message) if meant else ("Did you mean" not in message)


def test_an_operator_refuses_unknown_arguments() -> None:
    with pytest.raises(TypeError, match=r"widht.*Did you mean width\?"):
        generate(widht=5)
    with pytest.raises(TypeError, match=r"'promt': 'x'.*Did you mean prompt\?"):
        DeepshiGenerateImagesOperator(task_id="a", promt="x")
    with pytest.raises(TypeError, match=r"negative_prompt.*extra_params"):
        generate(negative_prompt="red")
    with pytest.raises(TypeError, match="widht"):
        DeepshiGenerateImageOperator.partial(task_id="boats", widht=5)


# ------------------------------------------------------------------ secrets

DATA = "data:image/png;base64," + "iVBORw0KGgo" * 400
SIGNED = "https://bucket.example/in.png?X-Amz-Credential=AKIA&X-Amz-Signature=0123456789abcdef"


@pytest.mark.parametrize("images", [DATA, [DATA], {"uri": DATA}, json.dumps([DATA])])
def test_a_data_uri_is_refused_and_not_shown(emulator: Emulator, local: Place, images: Any) -> None:
    message = refused(edit(images=images, output_uri=local.uri), InvalidRequest, emulator, local)
    assert len(message) < 500
    assert "data URI; store the image and pass its URI" in message


def test_no_error_shows_a_signature_or_the_data_of_an_image() -> None:
    plain_data = DATA.replace("image/png", "")
    quoted = "https://bucket.example/in.png%3Fauth%3D0123456789abcdef"
    for secret in (DATA, SIGNED, plain_data, f"{SIGNED.partition('?')[0]}?hmac=0123456789abcdef", quoted):
        error = StorageFailed(f"Could not read '{secret}' in it, and <{secret}> neither")
        assert len(str(error)) < 500
        assert not re.search(
            "0123456789abcdef|AKIA|iVBORw0KGgo", f"{error} {error.message} {error.as_data()} {error.args}"
        )
        assert "neither" in str(error)
    plain = "Could not read s3://bucket/what?.png, is it there?"
    assert StorageFailed(plain).message == plain


def test_a_uri_in_a_message_is_short() -> None:
    assert shown_uri(SIGNED) == "https://bucket.example/in.png?…"
    assert shown_uri(DATA) == "data:image/png;base64,… (4,422 characters)"
    assert shown_uri("s3://bucket/a.png") == "s3://bucket/a.png"
    assert len(shown_uri("s3://bucket/" + "a" * 3000)) < 250
