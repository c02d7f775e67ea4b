"""What callbacks and notifiers of Airflow get to see: what a task has cost, and how much of its budgets is left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from airflow.sdk import Context

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import usd
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet, in_words
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.blocking import run_here

log = logging.getLogger(__name__)

Callback = Callable[[Context], Any]
Callbacks = Callback | Sequence[Callback] | None


@dataclass(frozen=True, kw_only=True)
class TaskCosts:
    """What a callback says of a task instance.

    :param cost_usd: over all its tries; ``None`` if it is not known.
    :param may_have_cost_usd: what may come on top; ``None`` if that is not known.
    :param unknown_outcomes: requests that may have been paid for and are not in ``cost_usd``.
    :param budgets: of this day and month, that hold for the task; empty if there are none, or they cannot be read.
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
        """All of it, line by line."""
        left = (f"{usd(b.left_usd)} of {b.name} {usd(b.limit_usd)} left until {b.resets_at}" for b in self.budgets)
        links = (f"{name}: {uri}" for name, uri in self.links.items())
        return "\n".join([f"{self.name} has cost {self.in_words}", *left, *links])


def task_costs(context: Context) -> TaskCosts:
    """Return what the task of a callback's context has cost; for ``on_success_callback``, ``on_failure_callback``.

    Never raises: what cannot be read is left out.
    """
    ti, task = context["ti"], context.get("task")
    sheet = _sheet(ti, task)
    index = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
    uris = {} if sheet is None else {"manifest": sheet.manifest_uri, "directory": sheet.output_uri}
    image = sheet.images[0].uri if sheet and sheet.images else None
    links = {**uris, "image": image, "log": getattr(ti, "log_url", None)}
    return TaskCosts(
        name=f"{ti.dag_id}.{ti.task_id}{index}, run {ti.run_id}, try {ti.try_number},",
        cost_usd=sheet.cost_usd if sheet else None,
        may_have_cost_usd=sheet.may_have_cost_usd if sheet else None,
        unknown_outcomes=sheet.unknown_outcomes if sheet else 0,
        budgets=tuple(_budgets(task)),
        links={name: str(uri) for name, uri in links.items() if uri},
        in_words="an unknown sum" if sheet is None else in_words(sheet),
    )


class WithCosts:
    """Calls notifiers with ``deepshi`` in their context, the :class:`TaskCosts`, so that their templates may say it.

    ``on_failure_callback=WithCosts(SmtpNotifier(to="…", subject="…", html_content="{{ deepshi.text }}"))``

    :param callbacks: of Airflow's kind.
    """

    def __init__(self, *callbacks: Callback) -> None:
        self._callbacks = callbacks

    def __call__(self, context: Context) -> None:
        """Call them, one after another; one that fails does not keep the others from being called."""
        _call(self._callbacks, cast(Context, {**context, "deepshi": task_costs(context)}))


def warn(callbacks: Callbacks, context: Context, state: WindowState) -> None:
    """Call what a user wants to be called when a budget is nearly spent. Never raises."""
    if callbacks is not None:
        listed = callbacks if isinstance(callbacks, Sequence) else [callbacks]
        _call(listed, cast(Context, {**context, "deepshi_budget": state}))


def _call(callbacks: Sequence[Callback], context: Context) -> None:
    for callback in callbacks:
        try:
            callback(context)
        except Exception:  # of a mail server or the like: the images are paid for, whoever hears of it
            log.exception("A callback failed")


def _sheet(ti: Any, task: Any) -> CostSheet | None:
    lineage = getattr(task, "lineage", None)
    if lineage is not None:  # the task has ended in this process
        return cast(CostSheet, lineage.costs)
    try:
        found = ti.xcom_pull(task_ids=ti.task_id, key=XCOM_KEY, map_indexes=ti.map_index)
        return CostSheet.model_validate(found) if found else None
    except Exception:  # of Airflow's API, or a value that somebody else wrote
        log.warning("What the task has cost cannot be read", exc_info=True)
        return None


def _budgets(task: Any) -> list[WindowState]:
    from deepshi_provider.hooks.jobs import window_states  # not while DAGs are parsed

    hook = getattr(task, "hook", None)
    if hook is None:
        return []
    try:
        return run_here(window_states(hook, getattr(task, "budget_group", None)))
    except (DeepshiError, RuntimeError) as err:
        log.warning("What is left of the budgets cannot be read: %s", err)
        return []
