"""DAGs for ``test_upstream_values.py``: values of upstream tasks, and labels of results."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Asset, AssetAlias, task

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.operators.images import (
    DeepshiEditImageOperator,
    DeepshiGenerateImageOperator,
    DeepshiGenerateImagesOperator,
)

SMALL: dict[str, Any] = {"width": 64, "height": 48, "preflight": "off"}


@task
def two(prefix: str) -> list[dict[str, Any]]:
    return [{"key": f"{prefix}{number}", "prompt": f"{prefix} {number}"} for number in range(2)]


@task
def one(word: str) -> dict[str, Any]:
    return {"key": word, "prompt": f"the word {word}"}


def louder(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "prompt": f"{row['prompt']}!"}


def joined(pair: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return {"key": f"{pair[0]['key']}-{pair[1]['key']}", "prompt": f"{pair[0]['prompt']} and {pair[1]['prompt']}"}


with DAG("lazy", schedule=None):
    a, b = two.override(task_id="a")("a"), two.override(task_id="b")("b")
    words = one.expand(word=["x", "y", "z"])
    for task_id, requests in {
        "of_concat": a.concat(b),
        "of_map": a.map(louder),
        "of_zip": a.zip(b).map(joined),
        "of_words": words,
        "of_mapped_words": words.map(louder),
        "of_words_and_more": words.concat(a),
    }.items():
        DeepshiGenerateImagesOperator(task_id=task_id, requests=requests, **SMALL)

    @task.deepshi_image(**SMALL)
    def returned(rows: Any) -> Any:
        return rows

    returned.override(task_id="returned_words")(words)
    returned.override(task_id="returned_map")(words.map(louder))
    returned.override(task_id="returned_concat")(a.concat(b))

    made = DeepshiGenerateImageOperator.partial(task_id="made", **SMALL).expand(prompt=["cup", "jug"])
    more = DeepshiGenerateImageOperator(task_id="more", prompt="mug", **SMALL)
    edits = {
        "edit_mapped": made.output,
        "edit_concat": made.output.concat(made.output),
        "edit_map": made.output.map(lambda result: result["images"][0]["uri"]),
        "edit_zip": made.output.zip(made.output),
    }
    for task_id, images in edits.items():
        DeepshiEditImageOperator(task_id=task_id, images=images, prompt=task_id, **SMALL)

with DAG("labelled", schedule=None):

    @task
    def goods() -> list[dict[str, Any]]:
        return [
            {"prompt": "a lamp", "key": 7, "metadata": {"table": "lamps", "tags": ["new", None]}},
            {"prompt": "a refused chair", "key": 8, "metadata": {"table": "chairs"}},
            {"prompt": "a shoe", "key": 9, "metadata": "shoes"},
        ]

    pictures = DeepshiGenerateImageOperator.partial(
        task_id="pictures", outlets=[Asset("s3://catalog/pictures"), AssetAlias("pictures")], **SMALL
    ).expand_kwargs(goods())

    @task(trigger_rule="all_done")
    def write_back(results: Any) -> dict[str, str]:
        return {str(result["key"]): result["images"][0]["uri"] for result in results}

    write_back(pictures.output)
    DeepshiGenerateImageOperator(
        task_id="rendered",
        prompt="a table",
        key="{{ ti.task_id }}/007",
        metadata='{{ {"run": run_id, "none": none, "yes": true} | tojson }}',
        **SMALL,
    )
    DeepshiGenerateImagesOperator(
        task_id="catalog", requests=[{"key": "row", "prompt": "a row"}], key="whole", metadata=[1, None], **SMALL
    )

    @task.deepshi_image(metadata="of the decorator", **SMALL)
    def drawn() -> dict[str, Any]:
        return {"prompt": "a drawn cup", "key": {"sku": 1}}

    drawn()

with DAG("bought", schedule=None):

    @task
    def buy() -> list[str]:
        request = GenerateRequest(model="deepshi-banana-pro", prompt="bought by a hook", width=64, height=48)
        costs = []
        for _ in range(2):
            with DeepshiHook().generate(request) as result:
                costs.append(str(result.cost_usd))
        return costs

    buy() >> DeepshiGenerateImageOperator(
        task_id="after", prompt="after the hook", max_run_cost_usd="0.0000031", **SMALL
    )

with DAG("names", schedule=None):

    def ask(task_id: str, value: Any, **arguments: Any) -> None:
        @task.deepshi_image(task_id=task_id, **SMALL, **arguments)
        def asked() -> Any:
            return value

        asked()

    ask("typo", {"prompt": "a typo", "widht": 512})
    ask("of_the_model", {"prompt": "of the model", "negative_prompt": "red"})
    ask("streamed", {"prompt": "streamed", "stream": True})
    ask("typo_in_list", [{"prompt": "a typo in a list", "qualtiy": "low"}])
    ask("twice", {"prompt": "named twice", "extra_params": {"width": 3}})
    ask("extra", {"prompt": "with extra", "extra_params": {"negative_prompt": "red"}})
    ask("too_long", {"prompt": "too long", "metadata": "m" * 1023})

with DAG("edits", schedule=None):
    cup = DeepshiGenerateImageOperator(task_id="cup", prompt="a cup", **SMALL)
    DeepshiEditImageOperator(task_id="blue", images=cup.output, prompt="blue", **SMALL)

    @task.deepshi_image(**SMALL)
    def red(image: Any) -> dict[str, Any]:
        return {"prompt": "red", "images": image}

    @task.deepshi_image(**SMALL)
    def both(image: Any) -> list[dict[str, Any]]:
        return [{"key": "e", "prompt": "green", "images": image}, {"key": "g", "prompt": "a green cup"}]

    red(cup.output)
    both(cup.output)
    DeepshiGenerateImagesOperator(
        task_id="all_edits", images=cup.output, requests=[{"key": "k", "prompt": "yellow"}], **SMALL
    )
