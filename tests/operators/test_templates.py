"""Templated fields, rendered as text or as Python objects."""

from __future__ import annotations

import math
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.operators.images import DeepshiEditImageOperator, DeepshiGenerateImageOperator
from tests.support.counts import posts
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of, edit, execute, generate, native, run_try

MAKERS = pytest.mark.parametrize("make", [generate, native], ids=["text", "native"])


def sent(emulator: Emulator) -> dict[str, Any]:
    """The fields of the only request, without those that are always sent."""
    (request,) = emulator.requests()
    return {k: v for k, v in request["fields"].items() if k not in ("model", "prompt", "stream")}


@MAKERS
@pytest.mark.parametrize("value", [64, "64", " 64 ", 64.0])
def test_numbers_are_sent_as_numbers_however_they_are_rendered(
    emulator: Emulator, local: Place, make: Any, value: Any
) -> None:
    run_try(make(width="{{ params.width }}", output_uri=local.uri), params={"width": value})
    assert sent(emulator) == {"width": 64, "height": 48}


@MAKERS
@pytest.mark.parametrize("value", [None, "", "None"])
def test_blank_is_not_sent(emulator: Emulator, local: Place, make: Any, value: Any) -> None:
    names = ["width", "aspect_ratio", "resolution", "image_size", "quality", "output_format", "seed", "n"]
    fields = {name: f"{{{{ params.{name} }}}}" for name in names}
    run_try(make(**fields, output_uri=local.uri, preflight="off"), params=dict.fromkeys(names, value))
    assert sent(emulator) == {"height": 48}


@MAKERS
@pytest.mark.parametrize("field", ["width", "height", "n", "seed"])
@pytest.mark.parametrize("value", ["abc", "1.5", [1]])
def test_a_value_that_is_no_number_fails_with_its_name_before_the_request(
    emulator: Emulator, local: Place, make: Any, field: str, value: Any
) -> None:
    ti = TaskInstance(task_id="boat")
    with pytest.raises(AirflowFailException, match=f"The request was not sent: {field}: .*got '"):
        execute(make(**{field: "{{ params.value }}"}, output_uri=local.uri), ti, {"value": value})
    assert (posts(emulator), emulator.stats()["gets"], local.names()) == (0, 0, [])
    assert ti.xcoms == {"cost_usd": 0.0}


@MAKERS
def test_every_field_of_the_request_is_templated(emulator: Emulator, local: Place, make: Any) -> None:
    values = {
        "prompt": "a boat",
        "model": "flux-2-pro",
        "n": 2,
        "width": 64,
        "height": 48,
        "seed": 7,
        "output_format": "jpeg",
        "aspect_ratio": "16:9",
        "resolution": "2K",
        "image_size": "auto",
        "quality": "low",
    }
    fields = {name: f"{{{{ params.{name} }}}}" for name in values}
    extra = {"style": "{{ params.prompt }}", "deep": [{"seed": "{{ params.seed }}"}]}
    run_try(make(**fields, extra_params=extra, output_uri=local.uri, preflight="off"), params=values)
    (request,) = emulator.requests()
    seed = 7 if make is native else "7"
    assert request["fields"] == {**values, "style": "a boat", "deep": [{"seed": seed}], **_stream(request)}


def _stream(request: dict[str, Any]) -> dict[str, Any]:
    assert request["stream"] is False
    return {k: v for k, v in request["fields"].items() if k == "stream"}


@MAKERS
def test_prompt_that_looks_like_a_number_stays_text(emulator: Emulator, local: Place, make: Any) -> None:
    run_try(make(prompt="{{ params.prompt }}", output_uri=local.uri), params={"prompt": "1984"})
    assert emulator.requests()[0]["prompt"] == "1984"


@MAKERS
@pytest.mark.parametrize("value", ["", None])
@pytest.mark.parametrize("field", ["prompt", "model"])
def test_required_field_that_renders_to_nothing_is_named(
    emulator: Emulator, local: Place, make: Any, field: str, value: Any
) -> None:
    operator = make(**{field: "{{ params.value }}"}, output_uri=local.uri)
    with pytest.raises(AirflowFailException, match=f"{field} is missing or empty"):
        execute(operator, TaskInstance(task_id="boat"), {"value": value})
    assert posts(emulator) == 0


def test_prompt_is_not_in_the_error_about_another_field(emulator: Emulator, local: Place) -> None:
    operator = generate(prompt=["a", "secret"], width="abc", output_uri=local.uri)
    with pytest.raises(AirflowFailException) as raised:
        execute(operator, TaskInstance(task_id="boat"))
    assert "secret" not in str(raised.value)
    assert "width" in str(raised.value)
    assert posts(emulator) == 0


# ------------------------------------------------------------------ connections and directories


@MAKERS
def test_connections_and_directory_are_templated(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", emulator.connection_json())
    operator = make(
        output_uri="{{ params.base }}/{{ run_id }}/{{ ti.task_id }}",
        deepshi_conn_id="{{ params.conn }}",
        output_conn_id="{{ params.none }}",
    )
    params = {"base": local.uri, "conn": "other", "none": None}
    value = run_try(operator, params=params).xcoms["return_value"]
    assert value["images"][0]["uri"] == f"{local.uri}/monday/boat/image-0.png"


@pytest.mark.parametrize("output_uri", [None, "", "None", "{{ params.nothing }}"])
def test_directory_of_the_connection_is_the_default(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, output_uri: str | None
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(output_uri=f"{local.uri}/"))
    for map_index, folder in ((-1, "boat"), (0, "boat/0"), (11, "boat/11"), (None, "boat")):
        ti = run_try(
            generate(output_uri=output_uri),
            params={"nothing": None},
            run_id="manual__2026-01-02T03:04:05+00:00",
            map_index=map_index,
        )
        (image,) = ti.xcoms["return_value"]["images"]
        assert image["uri"] == f"{local.uri}/shop/manual__2026-01-02T03-04-05_00-00/{folder}/image-0.png"
    assert posts(emulator) == 3


@pytest.mark.s3
def test_store_of_the_connection_is_the_default(
    emulator: Emulator, s3_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = emulator.connection_json(output_uri=s3_place.uri, output_conn_id=s3_place.conn_id)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    (image,) = run_try(generate()).xcoms["return_value"]["images"]
    assert image["uri"] == f"{s3_place.uri}/shop/monday/boat/image-0.png"
    assert "shop/monday/boat/image-0.png" in s3_place.names()


# ------------------------------------------------------------------ extra_params


@pytest.mark.parametrize("value", [None, {}, "", "None"])
def test_no_extra_params(emulator: Emulator, local: Place, value: Any) -> None:
    run_try(generate(extra_params=value, output_uri=local.uri))
    assert sent(emulator) == {"width": 64, "height": 48}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"style": null, "strength": NaN, "tiled": true}', {"style": None, "strength": math.nan, "tiled": True}),
        ("{'style': None, 'strength': 0.5, 'tiled': True}", {"style": None, "strength": 0.5, "tiled": True}),
        ("{{ {'style': none, 'tiled': true} | tojson }}", {"style": None, "tiled": True}),
        ("{{ {'style': none, 'tiled': true} }}", {"style": None, "tiled": True}),
    ],
)
def test_one_template_may_render_to_the_whole_dictionary(text: str, expected: dict[str, Any]) -> None:
    ti = TaskInstance(task_id="boat")
    operator = generate(extra_params=text).prepare_for_execution()
    operator.render_template_fields(context_of(ti))
    found = operator.request_fields()
    assert repr({name: found[name] for name in expected}) == repr(expected)


@MAKERS
def test_rendered_extra_params_must_be_a_dictionary(emulator: Emulator, local: Place, make: Any) -> None:
    operator = make(extra_params="{{ params.extra }}", output_uri=local.uri)
    if make is native:
        run_try(operator, params={"extra": {"style": "flat"}})
        assert sent(emulator)["style"] == "flat"
    with pytest.raises(AirflowFailException, match=r"extra_params must be a dictionary, got (str|list)"):
        execute(operator, TaskInstance(task_id="boat"), {"extra": ["style"]})
    assert posts(emulator) == (make is native)


@pytest.mark.parametrize("name", ["prompt", "width", "n", "stream", "images"])
def test_extra_params_do_not_replace_parameters(emulator: Emulator, local: Place, name: str) -> None:
    operator = generate(extra_params={name: 1, "style": "flat"}, output_uri=local.uri)
    with pytest.raises(AirflowFailException, match=f"extra_params names fields that are parameters .*: {name} "):
        execute(operator, TaskInstance(task_id="boat"))
    assert posts(emulator) == 0


# ------------------------------------------------------------------ before anything runs


@pytest.mark.parametrize("kind", [DeepshiGenerateImageOperator, DeepshiEditImageOperator])
def test_constructor_only_assigns(kind: type[DeepshiGenerateImageOperator]) -> None:
    """Before rendering, a template may be anything."""
    templates: dict[str, Any] = {name: f"{{{{ nonsense('{name}') }}}}" for name in kind.template_fields}
    operator = kind(task_id="boat", **templates)
    assert {name: getattr(operator, name) for name in kind.template_fields} == templates


def test_everything_but_the_policies_is_templated() -> None:
    policies = {
        "reuse",
        "max_resends",
        "preflight",
        "on_mismatch",
        "fallback_on_refusal",
        "generation_timeout",
        "stream",
        "deferrable",
    }
    assert not policies & set(DeepshiGenerateImageOperator.template_fields)
    assert set(DeepshiEditImageOperator.template_fields) - set(DeepshiGenerateImageOperator.template_fields) == {
        "images"
    }


def test_prompts_like_file_names_are_not_loaded_as_templates(emulator: Emulator, local: Place) -> None:
    run_try(generate(prompt="a boat.txt", output_uri=local.uri))
    assert emulator.requests()[0]["prompt"] == "a boat.txt"


# ------------------------------------------------------------------ mapped tasks and one directory


def test_mapped_tasks_in_one_directory_fail_before_payment(emulator: Emulator, place: Place) -> None:
    def at(prompt: str) -> DeepshiGenerateImageOperator:
        return generate(prompt=prompt, output_uri=place.uri, output_conn_id=place.conn_id)

    run_try(at("zero"), map_index=0)
    before = place.read("image-0.png")
    for try_number in (1, 2):
        with pytest.raises(AirflowFailException, match=r"task boat\[0\] of this run .* \{\{ ti.map_index \}\}"):
            execute(at("one"), TaskInstance(task_id="boat", map_index=1, try_number=try_number))
    assert posts(emulator) == 1
    assert place.read("image-0.png") == before
    assert run_try(at("zero"), map_index=0, try_number=2).xcoms["return_value"]["reused"] is True


def test_an_image_reused_by_a_mapped_task_is_not_replaced_by_another(emulator: Emulator, local: Place) -> None:
    run_try(generate(prompt="zero", output_uri=local.uri), run_id="monday", map_index=0)
    reused = run_try(generate(prompt="zero", output_uri=local.uri), run_id="tuesday", map_index=0)
    assert reused.xcoms["return_value"]["reused"] is True
    before = local.read("image-0.png")
    with pytest.raises(AirflowFailException, match=r"task boat\[0\] of this run"):
        execute(
            generate(prompt="one", output_uri=local.uri),
            TaskInstance(task_id="boat", run_id="tuesday", map_index=1),
        )
    assert posts(emulator) == 1
    assert local.read("image-0.png") == before


def test_map_index_in_output_uri_keeps_them_apart(emulator: Emulator, local: Place) -> None:
    for index in (0, 1):
        operator = generate(prompt=f"boat {index}", output_uri=f"{local.uri}/{{{{ ti.map_index }}}}")
        (image,) = run_try(operator, map_index=index).xcoms["return_value"]["images"]
        assert image["uri"] == f"{local.uri}/{index}/image-0.png"
    assert posts(emulator) == 2


def test_edit_renders_its_images(emulator: Emulator, local: Place) -> None:
    made = run_try(generate(output_uri=local.uri)).xcoms["return_value"]
    for position, template in enumerate(["{{ params.made }}", "{{ params.made.images }}", "{{ params.uri }}"]):
        params = {"made": made, "uri": made["images"][0]["uri"]}
        operator = edit(images=template, output_uri=f"{local.uri}/{position}")
        run_try(operator, params=params)
    sent_images = [request["images"] for request in emulator.requests()[1:]]
    assert [image["sha256"] for (image,) in sent_images] == [made["images"][0]["sha256"]] * 3


@pytest.mark.parametrize("is_mapped", [False, True])
def test_airflow_shows_and_stores_only_the_fields_that_were_given(is_mapped: bool) -> None:
    ti = TaskInstance(task_id="boat")
    context = context_of(ti, params={"size": 64})
    with DAG("boats"):
        if is_mapped:
            mapped = DeepshiGenerateImageOperator.partial(task_id="boat", width="{{ params.size }}", seed=0).expand(
                prompt=["a boat"]
            )
            operator = mapped.unmap({"prompt": "a {{ params.size }} m boat"})
        else:
            operator = DeepshiGenerateImageOperator(
                task_id="boat", width="{{ params.size }}", seed=0, prompt="a {{ params.size }} m boat"
            )
    for _ in range(2):  # a task is rendered again on each try
        rendered = operator.prepare_for_execution()
        rendered._do_render_template_fields(  # noqa: SLF001 -- Airflow calls it for mapped tasks
            rendered, operator.template_fields, context, rendered.get_template_env(), set()
        )
        found = {name: getattr(rendered, name) for name in rendered.template_fields}
        assert found == {
            "model": "deepshi-banana-pro",
            "prompt": "a 64 m boat",
            "n": 1,
            "width": "64",
            "seed": 0,
            "deepshi_conn_id": "deepshi_default",
        }
    assert operator.template_fields == DeepshiGenerateImageOperator.template_fields
