"""Metrics, lineage and links of tasks in a real Airflow with OpenLineage's provider."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jsonschema  # type: ignore[import-untyped]  # its stubs are a package that nothing else needs
import pytest

from deepshi_provider.client.metrics import micro_usd
from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow import Airflow
from tests.services.seaweedfs import S3Server
from tests.services.statsd import StatsD
from tests.support.places import S3Place
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.airflow, pytest.mark.s3, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
SCHEMA = HERE.parents[2] / "docs" / "schemas" / "DeepshiImagesRunFacet.json"
DAG_ID = "observed"
RUN_ID = "monday"
WEEK_S = 7 * 24 * 3600
MODES = ["blocking", "deferred"]

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The outputs of one run."""

    airflow: Airflow
    deepshi: Emulator
    s3: S3Server
    statsd: StatsD
    images: Path
    events_path: Path
    hook_lineage_path: Path

    def result(self, task_id: str) -> Json:
        value: Json = self.airflow.xcom(DAG_ID, RUN_ID, task_id, "return_value")
        return value

    def costs(self, task_id: str) -> Json:
        value: Json = self.airflow.xcom(DAG_ID, RUN_ID, task_id, "deepshi_cost")
        return value

    def links(self, task_id: str) -> dict[str, str | None]:
        path = f"/dags/{DAG_ID}/dagRuns/{RUN_ID}/taskInstances/{task_id}/links"
        links: dict[str, str | None] = self.airflow.get(path)["extra_links"]
        return links

    def event(self, task_id: str, kind: str) -> Json:
        """The OpenLineage event of a task's end: ``COMPLETE`` or ``FAIL``."""

        def found() -> Json | None:
            # The last line may be incomplete.
            lines = [line for line in self.events_path.read_text().splitlines() if line.endswith("}")]
            events = [json.loads(line) for line in lines]
            name = f"{DAG_ID}.{task_id}"
            return next((e for e in events if e["job"]["name"] == name and e["eventType"] == kind), None)

        return wait_for(f"the event {kind} of {task_id}", 180, found)

    def facet(self, task_id: str, kind: str = "COMPLETE") -> Json:
        facet: Json = self.event(task_id, kind)["run"]["facets"]["deepshi_images"]
        jsonschema.validate(facet, json.loads(SCHEMA.read_text()))
        return {name: value for name, value in facet.items() if not name.startswith("_")}

    def requests(self, prompt: str) -> list[Json]:
        """The server's journal entries of requests whose prompt contains this text."""
        return [entry for entry in self.deepshi.requests() if prompt in (entry["prompt"] or "")]

    def paid(self, prompt: str) -> Decimal:
        """What the server charged for them, in USD."""
        return sum((Decimal(entry["cost_usd"] or 0) for entry in self.requests(prompt)), Decimal(0))


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Observed]:
    root = tmp_path_factory.mktemp("observed")
    events = root / "events.json"
    events.touch()
    hook_lineage = root / "hook_lineage"
    hook_lineage.mkdir()
    transport = {"type": "file", "log_file_path": str(events), "append": True}
    with (
        StatsD() as statsd,
        Emulator(latency=0) as deepshi,
        Airflow(
            root / "airflow",
            HERE / "dags",
            env={
                **statsd.environment(),
                "AIRFLOW_CONN_DEEPSHI_DEFAULT": deepshi.connection_json(output_uri=(root / "images").as_uri()),
                "AIRFLOW_CONN_S3_TEST": s3_server.airflow_connection_json(),
                "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
                "HOOK_LINEAGE": str(hook_lineage),
            },
        ) as airflow,
    ):
        deepshi.fault("cut", prompt="a lost boat", times=None, charged=False)
        deepshi.fault("status", status=400, prompt="a refused boat", times=None)
        airflow.wait_for_dag(DAG_ID)
        airflow.trigger("deliveries", run_id=RUN_ID)
        airflow.trigger(DAG_ID, run_id=RUN_ID)
        airflow.wait_for_run(DAG_ID, RUN_ID, timeout=240)
        yield Observed(
            airflow=airflow,
            deepshi=deepshi,
            s3=s3_server,
            statsd=statsd,
            images=root / "images",
            events_path=events,
            hook_lineage_path=hook_lineage,
        )


def test_run_ended_as_it_should(observed: Observed) -> None:
    states = {ti["task_id"]: ti["state"] for ti in observed.airflow.task_instances(DAG_ID, RUN_ID)}
    failed = {"lost", "lost_deferred", "few"}
    done = {"blocking", "deferred", "edited", "local", "many"}
    assert states == dict.fromkeys(failed, "failed") | dict.fromkeys(done, "success")


@pytest.mark.parametrize(
    ("prompt", "model", "operation", "images"),
    [
        ("a blocking boat", "grok-imagine", "generate", 2),
        ("a deferred boat", "deepshi-image-1", "generate", 1),
        ("make it blue", "deepshi-image-1", "edit", 1),
        ("one of many boats", "flux-2-pro", "generate", 60),
    ],
)
def test_worker_and_triggerer_send_metrics(
    observed: Observed, prompt: str, model: str, operation: str, images: int
) -> None:
    requests = observed.requests(prompt)
    found = observed.statsd.metrics(among={"model": model, "operation": operation, "outcome": "success"})
    counted = {
        name: sum(m.value for m in found if m.name == f"deepshi.{name}") for name in ("images", "cost_micro_usd")
    }
    durations = [metric for metric in found if metric.name == "deepshi.request.duration"]
    cost = sum(micro_usd(Decimal(entry["cost_usd"])) for entry in requests)
    assert (counted, len(durations)) == ({"images": images, "cost_micro_usd": cost}, len(requests))


def test_unknown_outcomes_of_worker_and_triggerer_are_counted(observed: Observed) -> None:
    found = observed.statsd.metrics(among={"outcome": "OutcomeUnknown"})
    assert [m.value for m in found if m.name == "deepshi.unknown_outcomes"] == [1, 1]


@pytest.mark.parametrize("task_id", MODES)
def test_openlineage_event_has_datasets_and_facet(observed: Observed, task_id: str) -> None:
    result, costs = observed.result(task_id), observed.costs(task_id)
    event = observed.event(task_id, "COMPLETE")
    assert [(d["namespace"], d["name"]) for d in event["outputs"]] == [
        ("s3://images", f"{RUN_ID}/{task_id}/{image['uri'].rpartition('/')[2]}") for image in result["images"]
    ]
    assert event["inputs"] == []
    assert observed.facet(task_id) == {
        "operation": "generate",
        "models": costs["models"],
        "cost_usd": costs["cost_usd"],
        "untold": 0,
        "saved_usd": "0",
        "unknown_outcomes": 0,
        "may_have_cost_usd": "0",
        "image_count": len(result["images"]),
        "images": [
            {
                "uri": image["uri"],
                "sha256": image["sha256"],
                "model": result["model"],
                "width": image["width"],
                "height": image["height"],
            }
            for image in result["images"]
        ],
    }
    assert Decimal(costs["cost_usd"]) == observed.paid(f"a {task_id} boat") > 0


@pytest.mark.parametrize("task_id", [*MODES, "edited", "few", "many"])
def test_hook_lineage_equals_that_of_openlineage(observed: Observed, task_id: str) -> None:
    event = observed.event(task_id, "FAIL" if task_id == "few" else "COMPLETE")
    lineage = json.loads((observed.hook_lineage_path / task_id).read_text())
    for side in ("inputs", "outputs"):
        assert sorted(lineage[side]) == sorted(f"{dataset['namespace']}/{dataset['name']}" for dataset in event[side])


def test_input_images_of_an_edit_are_input_datasets(observed: Observed) -> None:
    event = observed.event("edited", "COMPLETE")
    made = {("s3://images", image["uri"].split("/", 3)[3]) for image in observed.result("blocking")["images"]}
    assert {(d["namespace"], d["name"]) for d in event["inputs"]} == made
    assert [d["name"] for d in event["outputs"]] == [f"{RUN_ID}/edited/image-0.png"]
    assert observed.facet("edited")["operation"] == "edit"


def test_local_files_are_datasets_too(observed: Observed) -> None:
    (image,) = observed.result("local")["images"]
    event = observed.event("local", "COMPLETE")
    assert [(d["namespace"], d["name"]) for d in event["outputs"]] == [("file", urlsplit(image["uri"]).path)]


@pytest.mark.parametrize("task_id", ["lost", "lost_deferred"])
def test_failed_task_reports_its_possible_cost(observed: Observed, task_id: str) -> None:
    facet = observed.facet(task_id, "FAIL")
    sums = {name: facet[name] for name in ("image_count", "images", "unknown_outcomes", "untold", "cost_usd")}
    assert sums == {"image_count": 0, "images": [], "unknown_outcomes": 1, "untold": 0, "cost_usd": "0"}
    assert facet.get("may_have_cost_usd") == observed.costs(task_id)["may_have_cost_usd"]


def test_failed_batch_reports_its_images(observed: Observed) -> None:
    names = [d["name"] for d in observed.event("few", "FAIL")["outputs"]]
    place = S3Place(observed.s3, f"{RUN_ID}/few")
    made = [name for name in place.names() if name.startswith(("red", "green"))]
    (manifest,) = [name for name in place.names() if name.startswith("manifest-")]
    assert sorted(names) == sorted(f"{RUN_ID}/few/{name}" for name in [*made, manifest])
    assert len(made) == 2
    facet = observed.facet("few", "FAIL")
    assert Decimal(facet["cost_usd"]) == observed.paid("a red boat") + observed.paid("a green boat")
    assert [image["sha256"] is not None for image in facet["images"]] == [True, True]


def test_large_batch_reports_its_directory_and_first_images(observed: Observed) -> None:
    event = observed.event("many", "COMPLETE")
    manifest = observed.result("many")["manifest_uri"].split("/", 3)[3]
    assert [d["name"] for d in event["outputs"]] == [f"{RUN_ID}/many", manifest]
    facet = observed.facet("many")
    assert (facet["image_count"], len(facet["images"]), facet["operation"]) == (60, 50, "batch")


@pytest.mark.parametrize("task_id", [*MODES, "few", "many"])
def test_image_link_opens_the_picture_without_a_login(observed: Observed, task_id: str) -> None:
    link = observed.links(task_id)["Image"]
    assert link is not None
    assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == [str(WEEK_S)]
    answer = httpx.get(link, trust_env=False)
    place = S3Place(observed.s3, f"{RUN_ID}/{task_id}")
    assert answer.content == place.read(urlsplit(link).path.rpartition("/")[2])
    assert answer.headers["content-type"] in ("image/png", "image/jpeg", "image/webp")


@pytest.mark.parametrize("task_id", ["local", "lost", "lost_deferred"])
def test_no_link_if_a_browser_cannot_open_it(observed: Observed, task_id: str) -> None:
    assert observed.links(task_id) == {"Image": None, "Image directory": None}


def test_other_stores_than_amazons_have_no_console_link(observed: Observed) -> None:
    assert observed.links("blocking")["Image directory"] is None


def test_signed_urls_are_in_no_task_log_even_at_debug(observed: Observed) -> None:
    signed = [str(observed.links(task_id)["Image"]) for task_id in MODES]
    logs = [path.read_text(errors="replace") for path in (observed.airflow.home / "logs").rglob("*.log")]
    assert any("Setting xcom for operator extra link" in text for text in logs)
    for link in signed:
        (signature,) = parse_qs(urlsplit(link).query)["X-Amz-Signature"]
        assert not [text for text in logs if f"X-Amz-Signature={signature}" in text]


def test_events_hold_neither_key_nor_signature(observed: Observed) -> None:
    written = observed.events_path.read_text()
    assert "sk-bf-" not in written
    assert "X-Amz-" not in written


@pytest.mark.parametrize(
    ("dag_id", "task_id"),
    [("delivered", "as_text"), ("delivered", "as_json"), ("delivered_native", "as_event")],
)
def test_rows_of_the_asset_event_that_started_the_run_are_bought(observed: Observed, dag_id: str, task_id: str) -> None:
    def started() -> str | None:
        runs = observed.airflow.get(f"/dags/{dag_id}/dagRuns")["dag_runs"]
        return runs[0]["dag_run_id"] if runs else None

    run_id = wait_for(f"a run of {dag_id}", 180, started)
    observed.airflow.wait_for_run(dag_id, run_id)
    result = observed.airflow.xcom(dag_id, run_id, task_id, "return_value")
    manifest = Path(urlsplit(result["manifest_uri"]).path)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [(line["key"], line["prompt"]) for line in lines] == [
        ("007", "a delivered mug"),
        ("lamp", "a 'delivered' lamp \u2615"),
    ]
