"""The mapped operator of the http provider, for its two DAGs."""

from __future__ import annotations

from typing import Any

from airflow.providers.http.operators.http import HttpOperator

from benchmarks.ways import save


def over_http(way: str, prompts: list[str], *, deferrable: bool) -> None:
    """Add the operator to the DAG of a way."""

    def saved(response: Any) -> str:
        return save(way, response.json()["data"][0]["b64_json"])

    HttpOperator.partial(
        task_id="picture",
        http_conn_id="bench_http",
        endpoint="v1/images/generations",
        headers={"Content-Type": "application/json"},
        response_filter=saved,
        deferrable=deferrable,
    ).expand(data=[f'{{"model": "bench", "prompt": "{prompt}"}}' for prompt in prompts])
