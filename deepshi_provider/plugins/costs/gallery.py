"""The newest images with their prompts and costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import ValidationError
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from deepshi_provider.costs.sheet import CostSheet, SheetImage
from deepshi_provider.plugins.costs.access import RenderedTaskInstanceFields
from deepshi_provider.plugins.costs.book import UNREADABLE, check_amounts
from deepshi_provider.plugins.costs.reviews import Decisions
from deepshi_provider.plugins.costs.sheets import Scope, SheetRow, json_of, newest_rows, utc

#: DAG id, run id, task id, map index.
Task = tuple[str, str, str, int]


class Picture(NamedTuple):
    """One image of a cost sheet; ``number`` counts from 0 in the sheet."""

    row: SheetRow
    sheet: CostSheet
    number: int

    @property
    def image(self) -> SheetImage:
        """The image's entry in the sheet."""
        return self.sheet.images[self.number]

    @property
    def task(self) -> Task:
        """The task instance of the image."""
        return (self.row.dag_id, self.row.run_id, self.row.task_id, self.row.map_index)


def read_sheet(text: str) -> CostSheet | None:
    """Return the sheet in an XCom's text, or ``None`` if it is not one."""
    try:
        sheet = CostSheet.model_validate_json(json_of(text))
        check_amounts(sheet.cost_usd, sheet.saved_usd, sheet.may_have_cost_usd)
        for part in sheet.models:
            check_amounts(part.cost_usd, part.saved_usd, part.may_have_cost_usd)
        check_amounts(*(image.cost_usd for image in sheet.images))
    except (ValidationError, *UNREADABLE):
        return None
    return sheet


def newest_pictures(
    session: Session,
    scope: Scope,
    *,
    model: str | None,
    conn_id: str | None,
    group: str | None,
    text: str | None,
    limit: int,
    may_read_prompts: Callable[[str], bool],
) -> dict[str, Any]:
    """Return ``{"pictures": […], "more": whether there are others}``, the newest first, as JSON types.

    :param text: text to find in prompts, ignoring case; only prompts that the user may read are searched.
    """
    found: list[Picture] = []
    more = False
    for picture in _pictures(newest_rows(session, scope), model, conn_id, group):
        if text and not (may_read_prompts(picture.row.dag_id) and text.lower() in (picture.image.prompt or "").lower()):
            continue
        if len(found) == limit:
            more = True
            break
        found.append(picture)
    return {"pictures": described(session, found, may_read_prompts, Decisions(session, scope)), "more": more}


def _pictures(rows: Iterable[SheetRow], model: str | None, conn_id: str | None, group: str | None) -> Iterator[Picture]:
    for row in rows:
        sheet = read_sheet(row.text)
        if sheet is None or (model and model not in {entry.model for entry in sheet.models}):
            continue
        if (conn_id and sheet.deepshi_conn_id != conn_id) or (group and sheet.budget_group != group):
            continue
        for number in range(len(sheet.images)):
            yield Picture(row, sheet, number)


def described(
    session: Session, pictures: list[Picture], may_read_prompts: Callable[[str], bool], decisions: Decisions
) -> list[dict[str, Any]]:
    """Return images as JSON types; with prompts only if the user may read those of the DAG."""
    allowed = {dag_id for dag_id in {picture.row.dag_id for picture in pictures} if may_read_prompts(dag_id)}
    # Sheets without prompts, such as those of tasks that do not keep them.
    without = {p.task for p in pictures if p.row.dag_id in allowed and p.image.prompt is None}
    fields = _rendered_fields(session, without)
    return [
        _description(p, _prompt(p, fields.get(p.task, {})) if p.row.dag_id in allowed else None, decisions)
        for p in pictures
    ]


def _description(picture: Picture, prompt: str | None, decisions: Decisions) -> dict[str, Any]:
    row, sheet, number = picture
    image = picture.image
    return {
        "dag_id": row.dag_id,
        "run_id": row.run_id,
        "task_id": row.task_id,
        "map_index": row.map_index,
        "number": number,
        "version": int(utc(row.timestamp).timestamp() * 1000),
        "time": utc(row.timestamp).isoformat(),
        "key": image.key if image.key is not None else _text(sheet.key),
        "metadata": _text(sheet.metadata),
        "prompt": prompt,
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "models": [entry.model for entry in sheet.models],
        "try_number": sheet.try_number,
        # The cost of its request; some sheets have only the cost of the task.
        "is_priced": image.attempt is not None,
        "cost_usd": None if image.cost_usd is None else f"{image.cost_usd:f}",
        "of": image.of,
        "reused": image.reused,
        "fallback": image.fallback,
        "task": {
            "cost_usd": None if sheet.cost_usd is None else f"{sheet.cost_usd:f}",
            "untold": sheet.untold,
            "unknown_outcomes": sheet.unknown_outcomes,
            "up_to_usd": _most(sheet),
            "saved_usd": f"{sheet.saved_usd:f}",
            "images": sum(entry.images for entry in sheet.models),
            "reused": sum(entry.reused for entry in sheet.models),
        },
        "uri": image.uri,
        "warnings": sheet.warnings,
        "review": decisions.of(image, row.timestamp),
    }


def _most(sheet: CostSheet) -> str | None:
    """Return the highest possible cost of a task instance, in USD, or ``None`` if unknown."""
    doubt = sheet.may_have_cost_usd
    return None if doubt is None else f"{(sheet.cost_usd or Decimal(0)) + doubt:f}"


def _rendered_fields(session: Session, tasks: Collection[Task]) -> dict[Task, dict[str, Any]]:
    """Return rendered templates, which Airflow keeps only for the last runs."""
    if not tasks:
        return {}
    table = RenderedTaskInstanceFields
    key = (table.dag_id, table.run_id, table.task_id, table.map_index)
    rows = session.execute(select(*key, table.rendered_fields).where(tuple_(*key).in_(tasks)))
    return {(row[0], row[1], row[2], row[3]): row[4] for row in rows if isinstance(row[4], dict)}


def _prompt(picture: Picture, fields: dict[str, Any]) -> str | None:
    """Return the prompt of an image; for a row of a batch, the row's own, since the task's may be a template."""
    if picture.image.prompt is not None:
        return picture.image.prompt
    key = picture.image.key
    if key is None:
        prompt = fields.get("prompt")
        return prompt if isinstance(prompt, str) and prompt not in ("", "None") else None
    requests = fields.get("requests")
    for request in requests if isinstance(requests, list) else []:
        if isinstance(request, dict) and str(request.get("key")) == key and request.get("prompt"):
            return str(request["prompt"])
    return None


def _text(value: Any) -> str | None:
    """Return a key or metadata as text."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
