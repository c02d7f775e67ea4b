"""Runs operators as Airflow's task runner does: a copy, rendered, with a task instance. Needs no database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast

from airflow.sdk import DAG, BaseOperator, Context

from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet
from deepshi_provider.jobs.plan import PLAN_KEY, Plan
from deepshi_provider.operators.images import DeepshiEditImageOperator, DeepshiGenerateImageOperator

GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"


@dataclass(kw_only=True)
class TaskInstance:
    """One try; XComs are those of Airflow: JSON, and gone with the try.

    :ivar sheets: the cost sheets, apart from the other XComs, in the order in which they were pushed.
    :ivar plans: likewise.
    """

    dag_id: str = "shop"
    run_id: str = "monday"
    task_id: str
    map_index: int | None = -1
    try_number: int = 1
    xcoms: dict[str, Any] = field(default_factory=dict)
    sheets: list[CostSheet] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    def xcom_push(self, key: str, value: Any) -> None:
        assert json.loads(json.dumps(value, allow_nan=False)) == value, f"XCom {key} is not JSON: {value!r}"
        if key == XCOM_KEY:
            assert len(json.dumps(value)) < 4096
            self.sheets.append(CostSheet.model_validate(value))
        elif key == PLAN_KEY:
            assert len(json.dumps(value)) < 2048
            self.plans.append(Plan.model_validate(value))
        else:
            self.xcoms[key] = value


def context_of(ti: TaskInstance, **more: Any) -> Context:
    """What ``execute`` and templates get to see."""
    return cast(Context, {"ti": ti, "task_instance": ti, "run_id": ti.run_id, "params": {}, **more})


def run_try(operator: BaseOperator, *, params: dict[str, Any] | None = None, **identity: Any) -> TaskInstance:
    """Run one try to its success; :func:`run_failing` is for the other end."""
    ti = TaskInstance(task_id=operator.task_id, **identity)
    execute(operator, ti, params or {})
    return ti


def execute(operator: BaseOperator, ti: TaskInstance, params: dict[str, Any] | None = None) -> Any:
    """Run one try, with the XComs left in ``ti`` also after a failure."""
    context = context_of(ti, params=params or {})
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context)
    value = copy.execute(context)
    ti.xcom_push("return_value", value)
    return value


def generate(**fields: Any) -> DeepshiGenerateImageOperator:
    """A small, cheap picture."""
    defaults = {"task_id": "boat", "prompt": "a red boat", "width": 64, "height": 48}
    return DeepshiGenerateImageOperator(**{**defaults, **fields})


def edit(**fields: Any) -> DeepshiEditImageOperator:
    """A small, cheap edit."""
    defaults = {"task_id": "blue", "prompt": "make it blue", "model": "deepshi-image-1", "width": 64, "height": 48}
    return DeepshiEditImageOperator(**{**defaults, **fields})


def native(**fields: Any) -> DeepshiGenerateImageOperator:
    """The same in a DAG that renders templates as Python objects."""
    with DAG("native", schedule=None, render_template_as_native_obj=True):
        return generate(**fields)
