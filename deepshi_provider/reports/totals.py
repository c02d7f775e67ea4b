"""Adds the cost sheets of a DAG run up, exactly, and writes them as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict

from deepshi_provider.costs import CostSheet, ModelCosts, Usd, total

#: ``ended``: the sheet is the task's own; ``not ended``: the task was killed or still runs, so its records were added
#: up; ``not run``: there is neither a sheet nor a record.
Status = Literal["ended", "not ended", "not run"]

COLUMNS = (
    "dag_id",
    "run_id",
    "task_id",
    "map_index",
    "try_number",
    "status",
    "operation",
    "model",
    "cost_usd",
    "images",
    "reused",
    "saved_usd",
    "unknown_outcomes",
)


class Sums(BaseModel):
    """What something has cost.

    :param cost_usd: as far as the API told; ``None`` if there are costs and none was told.
    :param images: pictures that were bought.
    :param reused: pictures that others had bought.
    :param saved_usd: what the reused ones cost when they were bought.
    :param unknown_outcomes: sendings that may have been paid for and are not in ``cost_usd``.
    :param may_have_cost_usd: what these may have cost; ``None`` if that is not known.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    cost_usd: Usd | None
    images: int
    reused: int
    saved_usd: Usd
    unknown_outcomes: int
    may_have_cost_usd: Usd | None


class TaskCosts(Sums):
    """What a task has cost, with all its map indexes and tries."""

    task_id: str
    instances: int
    status: Status


class InstanceCosts(BaseModel):
    """One task instance."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    status: Status
    sheet: CostSheet


class CostReport(Sums):
    """What a DAG run has cost.

    :param created_at: ISO 8601.
    :param untold: task instances that have costs of which the API told nothing.
    """

    version: Literal[1] = 1
    dag_id: str
    run_id: str
    created_at: str
    untold: int
    max_cost_usd: Usd | None = None
    warn_cost_usd: Usd | None = None
    models: list[ModelCosts]
    tasks: list[TaskCosts]
    instances: list[InstanceCosts]


def make_report(
    dag_id: str,
    run_id: str,
    created_at: str,
    task_ids: Iterable[str],
    instances: Sequence[InstanceCosts],
    *,
    max_cost_usd: Decimal | None = None,
    warn_cost_usd: Decimal | None = None,
) -> CostReport:
    """Return the report of a run.

    :param task_ids: all that it is about, in the order in which it lists them.
    """
    sheets = [instance.sheet for instance in instances]
    return CostReport(
        dag_id=dag_id,
        run_id=run_id,
        created_at=created_at,
        untold=sum(any(cost is None for cost in _costs(sheet)) for sheet in sheets),
        max_cost_usd=max_cost_usd,
        warn_cost_usd=warn_cost_usd,
        models=_by_model(sheets),
        tasks=[_of_task(task_id, [i for i in instances if i.sheet.task_id == task_id]) for task_id in task_ids],
        instances=list(instances),
        **_sums(sheets).model_dump(),
    )


def as_csv(report: CostReport) -> str:
    """Return one line per task instance and model, with :data:`COLUMNS`; empty ``cost_usd``: the API told none."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for instance in report.instances:
        sheet = instance.sheet
        common = sheet.model_dump(mode="json") | {"status": instance.status}
        for model in sheet.models:
            writer.writerow(common | model.model_dump(mode="json"))
        if not sheet.models:
            writer.writerow(common | {"model": "", "images": 0, "reused": 0})
    for task in report.tasks:
        if task.status == "not run":
            names = {"dag_id": report.dag_id, "run_id": report.run_id, "task_id": task.task_id, "status": task.status}
            writer.writerow(names)
    return text.getvalue()


def _of_task(task_id: str, instances: Sequence[InstanceCosts]) -> TaskCosts:
    sums = _sums([instance.sheet for instance in instances])
    statuses = {instance.status for instance in instances} or {"not run"}
    status: Status = "not run" if "not run" in statuses else "not ended" if "not ended" in statuses else "ended"
    return TaskCosts(task_id=task_id, instances=len(instances), status=status, **sums.model_dump())


def _sums(sheets: Sequence[CostSheet]) -> Sums:
    doubts = [sheet.may_have_cost_usd for sheet in sheets]
    models = [model for sheet in sheets for model in sheet.models]
    return Sums(
        cost_usd=total(cost for sheet in sheets for cost in _costs(sheet)),
        images=sum(model.images for model in models),
        reused=sum(model.reused for model in models),
        saved_usd=sum((sheet.saved_usd for sheet in sheets), Decimal(0)),
        unknown_outcomes=sum(sheet.unknown_outcomes for sheet in sheets),
        may_have_cost_usd=None if None in doubts else total(doubts),
    )


def _costs(sheet: CostSheet) -> list[Decimal | None]:
    """Return the costs of a sheet by model; a sheet that was made without its store may have none of these."""
    paid = [model.cost_usd for model in sheet.models]
    return paid or [sheet.cost_usd]


def _by_model(sheets: Iterable[CostSheet]) -> list[ModelCosts]:
    entries: dict[str, list[ModelCosts]] = {}
    for sheet in sheets:
        for entry in sheet.models:
            entries.setdefault(entry.model, []).append(entry)
    summed = [
        ModelCosts(
            model=name,
            cost_usd=total(entry.cost_usd for entry in same),
            images=sum(entry.images for entry in same),
            reused=sum(entry.reused for entry in same),
            saved_usd=sum((entry.saved_usd for entry in same), Decimal(0)),
            unknown_outcomes=sum(entry.unknown_outcomes for entry in same),
        )
        for name, same in entries.items()
    ]
    return sorted(summed, key=lambda entry: (-(entry.cost_usd or Decimal(0)), entry.model))
