"""Runs operators like Airflow's task runner: a rendered copy with a task instance. Needs no database."""

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
    """One try. Like Airflow's, its XComs are JSON, and deleted before the next try.

    :ivar sheets: the cost sheets, separate from other XComs, in the order pushed.
    :ivar plans: the plans, likewise.
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
        check_stored(value)
        if key == XCOM_KEY:
            assert len(json.dumps(value)) < 4096
            self.sheets.append(CostSheet.model_validate(value))
        elif key == PLAN_KEY:
            assert len(json.dumps(value)) < 2048
            self.plans.append(Plan.model_validate(value))
        else:
            self.xcoms[key] = value


def check_stored(value: Any) -> None:
    """Check that a value is JSON that all of Airflow's databases can store; PostgreSQL is the strictest."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    assert json.loads(text) == value
    assert "\\u0000" not in text
    assert text.encode(), "no unpaired surrogates"


def context_of(ti: TaskInstance, **more: Any) -> Context:
    """Return the context for ``execute`` and templates."""
    return cast(Context, {"ti": ti, "task_instance": ti, "run_id": ti.run_id, "params": {}, **more})


def run_try(operator: BaseOperator, *, params: dict[str, Any] | None = None, **identity: Any) -> TaskInstance:
    """Run one try, which must succeed."""
    ti = TaskInstance(task_id=operator.task_id, **identity)
    execute(operator, ti, params or {})
    return ti


def execute(operator: BaseOperator, ti: TaskInstance, params: dict[str, Any] | None = None) -> Any:
    """Run one try; its XComs are in ``ti``, also after a failure."""
    context = context_of(ti, params=params or {})
    copy = operator.prepare_for_execution()
    copy.render_template_fields(context)
    value = copy.execute(context)
    ti.xcom_push("return_value", value)
    return value


def generate(**fields: Any) -> DeepshiGenerateImageOperator:
    """Return the operator for a small, cheap picture."""
    defaults = {"task_id": "boat", "prompt": "a red boat", "width": 64, "height": 48}
    return DeepshiGenerateImageOperator(**{**defaults, **fields})


def edit(**fields: Any) -> DeepshiEditImageOperator:
    """Return the operator for a small, cheap edit."""
    defaults = {"task_id": "blue", "prompt": "make it blue", "model": "deepshi-image-1", "width": 64, "height": 48}
    return DeepshiEditImageOperator(**{**defaults, **fields})


def native(**fields: Any) -> DeepshiGenerateImageOperator:
    """Return :func:`generate` in a DAG that renders templates as Python objects."""
    with DAG("native", schedule=None, render_template_as_native_obj=True):
        return generate(**fields)
