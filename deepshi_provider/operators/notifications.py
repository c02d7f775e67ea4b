"""Costs of a task and the rest of its budgets, for Airflow's callbacks and notifiers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, cast

from airflow.sdk import Context

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import usd
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet, cost_text
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.reports.lineage import Lineage

log = logging.getLogger(__name__)

Callback = Callable[[Context], Any]
Callbacks = Callback | Sequence[Callback] | None


class TaskCosts(NamedTuple):
    """What a task instance has cost, for a callback.

    :param cost_usd: over all its tries; ``None`` if unknown.
    :param may_have_cost_usd: the possible additional cost; ``None`` if unknown.
    :param unknown_outcomes: requests that may have been paid for and are not in ``cost_usd``.
    :param budgets: the task's budgets of this day and month; empty if there are none, or they cannot be read.
    :param links: URIs: ``manifest``, ``directory`` and ``image`` (the first), and ``log``, the URL of the task's log.
    """

    name: str
    cost_usd: Decimal | None
    may_have_cost_usd: Decimal | None
    unknown_outcomes: int
    budgets: tuple[WindowState, ...]
    links: dict[str, str]
    in_words: str

    @property
    def text(self) -> str:
        """The costs, the rest of the budgets and the links, one per line."""
        left = (f"{usd(b.left_usd)} of {b.name} {usd(b.limit_usd)} left until {b.resets_at}" for b in self.budgets)
        links = (f"{name}: {uri}" for name, uri in self.links.items())
        return "\n".join([f"{self.name} has cost {self.in_words}", *left, *links])


def task_costs(context: Context) -> TaskCosts:
    """Return what the task of a callback's context has cost; for ``on_success_callback``, ``on_failure_callback``.

    Never raises: costs and budgets that cannot be read are left out, as are those of other operators and of a DAG
    whose callback gets no task.
    """
    ti, task = context.get("ti"), context.get("task")
    sheet = _sheet(ti, task)
    uris = {} if sheet is None else {"manifest": sheet.manifest_uri, "directory": sheet.output_uri}
    image = sheet.images[0].uri if sheet and sheet.images else None
    links = {**uris, "image": image, "log": getattr(ti, "log_url", None)}
    return TaskCosts(
        name=_name(context, ti),
        cost_usd=sheet.cost_usd if sheet else None,
        may_have_cost_usd=sheet.may_have_cost_usd if sheet else None,
        unknown_outcomes=sheet.unknown_outcomes if sheet else 0,
        budgets=tuple(_budgets(task)),
        links={name: str(uri) for name, uri in links.items() if uri},
        in_words="an unknown amount" if sheet is None else cost_text(sheet),
    )


class WithCosts:
    """Calls notifiers with :class:`TaskCosts` as ``deepshi`` in their context, for use in their templates.

    ``on_failure_callback=WithCosts(SmtpNotifier(to="…", subject="…", html_content="{{ deepshi.text }}"))``

    :param callbacks: callables that take Airflow's context.
    """

    def __init__(self, *callbacks: Callback) -> None:
        self._callbacks = callbacks

    def __call__(self, context: Context) -> None:
        """Call all of them in order, also if one of them fails."""
        _call(self._callbacks, cast(Context, {**context, "deepshi": task_costs(context)}))


def warn(callbacks: Callbacks, context: Context, state: WindowState) -> None:
    """Call the callbacks for a budget that is nearly spent. Never raises."""
    if callbacks is not None:
        listed = callbacks if isinstance(callbacks, Sequence) else [callbacks]
        _call(listed, cast(Context, {**context, "deepshi_budget": state}))


def _call(callbacks: Sequence[Callback], context: Context) -> None:
    for callback in callbacks:
        try:
            callback(context)
        except Exception:  # users' code: the images are paid for, and the task must not fail for a notification
            log.exception("A callback failed; the task goes on")


def _name(context: Context, ti: Any) -> str:
    if ti is None:
        dag_id = getattr(context.get("dag"), "dag_id", "a DAG")
        return f"{dag_id}, run {context.get('run_id')},"
    index = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
    return f"{ti.dag_id}.{ti.task_id}{index}, run {ti.run_id}, try {ti.try_number},"


def _sheet(ti: Any, task: Any) -> CostSheet | None:
    if ti is None:
        return None
    try:
        lineage = getattr(task, "lineage", None)
        if isinstance(lineage, Lineage):  # the task has ended in this process
            return lineage.costs
        found = ti.xcom_pull(task_ids=ti.task_id, key=XCOM_KEY, map_indexes=ti.map_index)
        return CostSheet.model_validate(found) if found else None
    except Exception:  # from Airflow's API, an XCom that other code wrote, or another operator's property
        log.warning("The task's cost sheet could not be read", exc_info=True)
        return None


def _budgets(task: Any) -> list[WindowState]:
    from deepshi_provider.hooks.jobs import window_states  # not while DAGs are parsed

    try:
        hook = getattr(task, "hook", None)
        if not isinstance(hook, DeepshiHook):
            return []
        return run_here(window_states(hook, getattr(task, "budget_group", None)))
    except DeepshiError as err:
        log.warning("The rest of the budgets could not be read: %s", err)
        return []
    except Exception:  # from another operator's property, such as a connection that is not defined
        log.warning("The rest of the budgets could not be read", exc_info=True)
        return []
