"""Runs an image task from rendered fields to a result: one request, or the rows of a batch.

Modules that run jobs are imported only when a task runs, here and in :mod:`~deepshi_provider.operators.lifecycle`. This
saves a third of the operators' import time whenever a DAG is parsed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from airflow.sdk import Context
from pydantic import ValidationError

from deepshi_provider.api.complaints import complaints
from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.api.texts import is_blank
from deepshi_provider.batch.manifest import ManifestFormat
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.directories import STORES, shared_store
from deepshi_provider.jobs.fallbacks import checked_fallbacks, choices
from deepshi_provider.jobs.job import BatchJob, Job
from deepshi_provider.jobs.outcome import BatchOutcome, ImageOutcome
from deepshi_provider.jobs.plan import Plan
from deepshi_provider.journal.entries import IMAGE, Owner
from deepshi_provider.operators.lifecycle import ImageTask, Place, owner_of
from deepshi_provider.operators.rendered import (
    amount,
    flag,
    group_name,
    input_images,
    label,
    listed,
    number_or_share,
    seconds,
)

if TYPE_CHECKING:
    from deepshi_provider.batch.row_table import RowTable

Checked = TypeVar("Checked", Job, BatchJob)


class BatchLimits(NamedTuple):
    """Limits and options of a batch, as the user gave them; by default those for the plan of a single request."""

    max_concurrency: int = 1
    max_cost_usd: Any = None
    on_error: Literal["fail", "partial"] = "fail"
    max_failed: Any = None
    manifest_format: ManifestFormat = "jsonl"
    manifest_prompts: bool = True
    plan_only: Any = True
    start_over_budget: Any = False


def run_single_task(task: ImageTask, context: Context, make_request: Callable[[], GenerateRequest]) -> dict[str, Any]:
    """Run one request in this process, or defer it to the triggerer.

    :param make_request: raises :class:`InvalidRequest` if the rendered fields are not a valid request.
    """
    from deepshi_provider.hooks.jobs import run_job

    owner = owner_of(context)
    place = _place(task, context, owner)
    with task.failing(context, owner, place):
        request = make_request()
        stream = request.n == 1 if task.stream is None else task.stream
        job = _checked(
            Job,
            operation="edit" if isinstance(request, EditRequest) else "generate",
            fields=request.model_dump(exclude_none=True) | {"stream": stream},
            deadline=time.time() + seconds("generation_timeout", task.generation_timeout),
            **_common_fields(task, owner, place),
        )
        choices(request, job.fallbacks, job.stream)
        task.begin(context, owner, place, job.operation)
        if task.deferrable:
            task.defer_job(job, job.deadline)
    return _run_here(task, context, owner, place, functools.partial(run_job, job, hook=task.hook))


def run_batch_task(
    task: ImageTask, context: Context, limits: BatchLimits, fill: Callable[[RowTable, str | None], None]
) -> dict[str, Any]:
    """Run the rows of a batch in this process, or defer them to the triggerer.

    :param fill: adds all rows to a table, given the connection id of the object store; raises
        :class:`InvalidRequest` if one is not a valid request.
    """
    from deepshi_provider.batch.row_table import RowTable
    from deepshi_provider.batch.run import store_rows
    from deepshi_provider.hooks.batch_jobs import run_batch_job

    owner = owner_of(context)
    place = _place(task, context, owner)
    # Before the rows are read, which may take minutes: Airflow has deleted the XComs of the last try.
    task.begin(context, owner, place, "batch")
    with RowTable() as rows:
        with task.failing(context, owner, place):
            fill(rows, place[1])
            job = _batch_job(task, limits, len(rows), owner, place)
            if task.deferrable:
                run_here(store_rows(job, rows, STORES))
                task.defer_job(job, None)
        return _run_here(task, context, owner, place, functools.partial(run_batch_job, job, rows, hook=task.hook))


def _run_here(
    task: ImageTask,
    context: Context,
    owner: Owner,
    place: Place,
    run: Callable[..., Coroutine[Any, Any, ImageOutcome | BatchOutcome]],
) -> dict[str, Any]:
    """Run a job in this process; return its result or raise its error.

    :param run: calls its argument ``interrupted`` with the known costs if it is cancelled or fails unexpectedly.
    """
    known: list[CostSheet] = []
    try:
        outcome = task.await_here(run(interrupted=known.append))
    except (Exception, AirflowTaskTimeout):  # killed, or an unexpected error: there is no time to ask the store
        task.push_costs(context, *(known or [task.costs_so_far(owner, place)]))
        raise
    return task.finish(context, outcome)


def plan_of(task: ImageTask, owner: Owner, limits: BatchLimits, fill: Callable[[RowTable, str | None], None]) -> Plan:
    """Return what a batch would buy. Sends no paid request and stores nothing.

    :param fill: as for :func:`run_batch_task`.
    :raises DeepshiError: the plan could not be made.
    """
    from deepshi_provider.batch.row_table import RowTable
    from deepshi_provider.hooks.batch_jobs import run_batch_job

    place = task.place(owner)
    with RowTable() as rows:
        fill(rows, place[1])
        job = _batch_job(task, limits._replace(plan_only=True), len(rows), owner, place)
        return run_here(run_batch_job(job, rows, hook=task.hook)).made_plan()


def fill_with(make_request: Callable[[], GenerateRequest]) -> Callable[[RowTable, str | None], None]:
    """Return a function that adds one request to a table; its images are named like those of a single task."""

    def fill(rows: RowTable, output_conn_id: str | None) -> None:
        rows.add(1, IMAGE, make_request().model_dump(exclude_none=True))

    return fill


def _batch_job(task: ImageTask, limits: BatchLimits, rows: int, owner: Owner, place: Place) -> BatchJob:
    job = _checked(
        BatchJob,
        rows=rows,
        generation_timeout=seconds("generation_timeout", task.generation_timeout),
        max_concurrency=limits.max_concurrency,
        max_cost_usd=amount("max_cost_usd", limits.max_cost_usd),
        plan_only=flag("plan_only", limits.plan_only),
        start_over_budget=flag("start_over_budget", limits.start_over_budget),
        on_error=limits.on_error,
        max_failed=number_or_share("max_failed", limits.max_failed),
        manifest_format=limits.manifest_format,
        manifest_prompts=limits.manifest_prompts,
        **_common_fields(task, owner, place),
    )
    choices(EditRequest(model="any", prompt="any", images=["any"]), job.fallbacks, job.stream)
    return job


def _place(task: ImageTask, context: Context, owner: Owner) -> Place:
    with task.failing(context, owner):
        return task.place(owner)


def _common_fields(task: ImageTask, owner: Owner, place: Place) -> dict[str, Any]:
    if task.stream is not None and not isinstance(task.stream, bool):
        raise InvalidRequest(f"Nothing was sent: stream: True, False or None is needed, got {str(task.stream)[:40]!r}")
    settings = task.settings
    assert settings is not None  # noqa: S101 -- place() has looked it up
    limit = amount("max_run_cost_usd", task.max_run_cost_usd)
    if limit is not None and settings.output_uri is None:
        raise InvalidRequest(
            "Nothing was sent: max_run_cost_usd needs an output_uri in the extra of connection "
            f"{task.deepshi_conn_id!r}, in which the tasks of a run share their spending"
        )
    runs = shared_store(settings)
    return {
        "owner": owner,
        "key": label("key", task.key),
        "metadata": label("metadata", task.metadata),
        "output_uri": place[0],
        "output_conn_id": place[1],
        "is_shared": not is_blank(task.output_uri),
        "deepshi_conn_id": task.deepshi_conn_id,
        "reuse": task.reuse,
        "max_resends": task.max_resends,
        "preflight": task.preflight,
        "on_mismatch": task.on_mismatch,
        "fallbacks": _fallbacks(task),
        "fallback_on_refusal": task.fallback_on_refusal,
        "stream": task.stream,
        "max_run_cost_usd": limit,
        "budget_group": group_name(task.budget_group),
        "runs_uri": runs and runs.uri,
        "runs_conn_id": runs and runs.conn_id,
    }


def _fallbacks(task: ImageTask) -> list[dict[str, Any]]:
    given = [] if is_blank(task.fallbacks) else [*listed("fallbacks", task.fallbacks)]
    return checked_fallbacks(
        {**fields, "images": input_images(fields["images"])}
        if isinstance(fields, Mapping) and "images" in fields
        else fields
        for fields in given
    )


def _checked(kind: type[Checked], **fields: Any) -> Checked:
    try:
        return kind(**fields)
    except ValidationError as err:
        raise InvalidRequest(f"Nothing was sent: {complaints(err)}") from None
