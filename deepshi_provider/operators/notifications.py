"""Costs of a task and the rest of its budgets, for Airflow's callbacks and notifiers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio
from airflow.sdk import BaseNotifier, Context

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import usd
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet, cost_text
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.journal.entries import Owner
from deepshi_provider.operators.rendered import group_name
from deepshi_provider.reports.lineage import Lineage

if TYPE_CHECKING:
    from deepshi_provider.operators.lifecycle import ImageTask

log = logging.getLogger(__name__)

#: Seconds to look for warnings: the task has ended, and its store may be the reason.
_PATIENCE = 30.0

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
        left = map(_left, self.budgets)
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


def warn(callbacks: Callbacks, context: Context, task: ImageTask, noticed: Sequence[WindowState] = ()) -> None:
    """Call the callbacks for each budget that the task instance was the first to find nearly spent. Never raises.

    Called when a task ends, also for what its earlier processes have noticed, if they ended before they could call.

    :param noticed: the budgets that the task's outcome names; it has none if it was interrupted.
    """
    if not callbacks:
        return
    listed = [callbacks] if callable(callbacks) else list(callbacks)
    for state in _to_call(context, task, noticed):
        _call(listed, cast(Context, {**context, "deepshi_budget": state}))


def _to_call(context: Context, task: ImageTask, noticed: Sequence[WindowState]) -> Sequence[WindowState]:
    from deepshi_provider.hooks.jobs import warnings_to_call  # not while DAGs are parsed

    async def soon() -> list[WindowState]:
        owner, group = Owner.of(context["ti"]), group_name(task.budget_group)
        with anyio.fail_after(_PATIENCE):
            return await warnings_to_call(task.hook, owner, noticed, group)

    try:
        return run_here(soon())
    except (DeepshiError, RuntimeError, TimeoutError) as err:
        log.warning("Warnings of this task's earlier processes were not looked for: %r", err)
        return noticed


def _call(callbacks: Iterable[Callback], context: Context) -> None:
    for callback in callbacks:
        try:
            _notify(callback, context)
        except Exception:  # users' code: the images are paid for, and the task must not fail for a notification
            log.exception("A callback failed; the task goes on")


def _notify(callback: Callback, context: Context) -> None:
    """Call one callback; await an ``async`` function, and a notifier that has only ``async_notify``."""
    if isinstance(callback, BaseNotifier) and type(callback).notify is BaseNotifier.notify:
        callback.context = context  # ``await`` renders its templates with it
        found: Any = callback
    else:
        found = callback(context)
    if inspect.isawaitable(found):
        run_here(_awaited(found))


async def _awaited(work: Awaitable[Any]) -> None:
    await work


def _left(budget: WindowState) -> str:
    unpriced = f" less the price of {budget.unpriced} request(s)" if budget.unpriced else ""
    return f"{usd(budget.left_usd)}{unpriced} of {budget.name} {usd(budget.limit_usd)} left until {budget.resets_at}"


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
        return run_here(window_states(hook, group_name(getattr(task, "budget_group", None))))
    except DeepshiError as err:
        log.warning("The rest of the budgets could not be read: %s", err)
        return []
    except Exception:  # from another operator's property, such as a connection that is not defined
        log.warning("The rest of the budgets could not be read", exc_info=True)
        return []
