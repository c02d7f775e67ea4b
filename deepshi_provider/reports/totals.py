"""Adds up the cost sheets of a DAG run, exactly, and writes them as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deepshi_provider.costs.money import Usd
from deepshi_provider.costs.sheet import CostSheet, ModelCosts, sum_of

#: ``ended``: the sheet is the task's own; ``not ended``: the task was killed or still runs, so the sheet is made from
#: its records; ``not run``: there is neither a sheet nor a record; ``hook``: hooks' purchases in the task.
Status = Literal["ended", "not ended", "not run", "hook"]

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
    "untold",
    "may_have_cost_usd",
)


#: First characters of formulas in spreadsheets, also behind white space; some accept the wide forms too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


class Sums(BaseModel):
    """Sums of costs and images.

    :param cost_usd: as far as the API reported it; ``None`` if there are costs and it reported none. A lower bound if
        ``untold`` or ``unknown_outcomes`` is not 0.
    :param untold: paid requests whose cost the API did not report.
    :param images: number of images bought.
    :param reused: number of images that other task instances had bought.
    :param saved_usd: the original cost of the reused images.
    :param unknown_outcomes: attempts that may have been paid for and are not in ``cost_usd``.
    :param may_have_cost_usd: possible cost of unreported costs and unknown outcomes, in addition to ``cost_usd``;
        ``None`` if unknown.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    cost_usd: Usd | None
    untold: int
    images: int
    reused: int
    saved_usd: Usd
    unknown_outcomes: int
    may_have_cost_usd: Usd | None


class TaskCosts(Sums):
    """The cost of a task over all its map indexes and tries, or of hooks' purchases in it."""

    task_id: str
    instances: int
    status: Status


class InstanceCosts(BaseModel):
    """One task instance."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    status: Status
    sheet: CostSheet


class CostReport(Sums):
    """The cost of a DAG run.

    :param created_at: ISO 8601.
    :param failed: image tasks that failed in Airflow: ``task`` or ``task[map index]``.
    """

    version: Literal[1] = 1
    dag_id: str
    run_id: str
    created_at: str
    failed: list[str] = []
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
    failed: Iterable[str] = (),
    max_cost_usd: Decimal | None = None,
    warn_cost_usd: Decimal | None = None,
) -> CostReport:
    """Return the report of a run.

    :param task_ids: all tasks of the report, in order.
    """
    sheets = [instance.sheet for instance in instances]
    return CostReport(
        dag_id=dag_id,
        run_id=run_id,
        created_at=created_at,
        failed=list(failed),
        max_cost_usd=max_cost_usd,
        warn_cost_usd=warn_cost_usd,
        models=_by_model(sheets),
        tasks=[line for task_id in task_ids for line in _of_task(task_id, instances)],
        instances=list(instances),
        **_sums(sheets).model_dump(),
    )


def as_csv(report: CostReport) -> str:
    """Return one line per task instance and model, with :data:`COLUMNS`.

    ``cost_usd`` is empty if the API reported none, ``may_have_cost_usd`` if the price is unknown.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()

    def write(row: Mapping[str, Any]) -> None:
        writer.writerow({name: no_formula(value) for name, value in row.items() if name in COLUMNS})

    for instance in report.instances:
        sheet = instance.sheet
        common = sheet.model_dump(mode="json") | {"status": instance.status}
        for model in sheet.models:
            write(common | model.model_dump(mode="json"))
        if not sheet.models:
            write(common | {"model": "", "images": 0, "reused": 0})
    for task in report.tasks:
        if task.status == "not run":
            names = {"dag_id": report.dag_id, "run_id": report.run_id, "task_id": task.task_id, "status": task.status}
            write(names)
    return text.getvalue()


def no_formula(value: Any) -> Any:
    """Return a cell's value; text that a spreadsheet would run as a formula gets a quote in front."""
    if isinstance(value, str) and value.lstrip(" \xa0").startswith(_FORMULA):
        return f"'{value}"
    return value


def _of_task(task_id: str, instances: Sequence[InstanceCosts]) -> list[TaskCosts]:
    """Return the lines of a task: its own, and one for hooks' purchases in it."""
    mine = [instance for instance in instances if instance.sheet.task_id == task_id]
    by_hook = [instance for instance in mine if instance.status == "hook"]
    by_itself = [instance for instance in mine if instance.status != "hook"]
    if not by_hook:
        return [_line(task_id, by_itself)]
    return [_line(task_id, some) for some in (by_itself, by_hook) if some]


def _line(task_id: str, instances: Sequence[InstanceCosts]) -> TaskCosts:
    sums = _sums([instance.sheet for instance in instances])
    statuses = {instance.status for instance in instances} or {"not run"}
    order: tuple[Status, ...] = ("hook", "not run", "not ended", "ended")
    status = next(status for status in order if status in statuses)
    return TaskCosts(task_id=task_id, instances=len(instances), status=status, **sums.model_dump())


def _sums(sheets: Sequence[CostSheet]) -> Sums:
    whole = sum_of("", (part for sheet in sheets for part in sheet.parts()))
    return Sums(**{name: getattr(whole, name) for name in Sums.model_fields})


def _by_model(sheets: Iterable[CostSheet]) -> list[ModelCosts]:
    entries: dict[str, list[ModelCosts]] = {}
    for sheet in sheets:
        for entry in sheet.models:
            entries.setdefault(entry.model, []).append(entry)
    summed = [sum_of(name, same) for name, same in entries.items()]
    return sorted(summed, key=lambda entry: (-(entry.cost_usd or Decimal(0)), entry.model))
