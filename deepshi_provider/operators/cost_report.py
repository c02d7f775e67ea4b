"""A cost report at the end of a DAG run, and a limit on the run's costs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, BinaryIO, NamedTuple

from airflow.providers.common.compat.sdk import conf
from airflow.sdk import BaseOperator, Context

from deepshi_provider.api.texts import is_blank
from deepshi_provider.client.settings import Settings
from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import as_number, usd
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet, cost_text
from deepshi_provider.exceptions import BudgetExceeded, DeepshiError, InvalidRequest, TasksFailed
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES, shared_store
from deepshi_provider.hooks.jobs import prices_of, window_states
from deepshi_provider.hooks.purchases import purchase_sheets
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.run_costs import RunEntry, read_entries
from deepshi_provider.journal.sheets import read_sheet
from deepshi_provider.operators.final import final_errors
from deepshi_provider.operators.lifecycle import ImageTask, output_store, owner_of
from deepshi_provider.operators.rendered import amount
from deepshi_provider.reports.page import as_html
from deepshi_provider.reports.thumbnails import thumbnails
from deepshi_provider.reports.totals import CostReport, InstanceCosts, as_csv, make_report
from deepshi_provider.store.store import Store

log = logging.getLogger(__name__)

#: Maximum number of failed tasks in a message; the report lists all.
MOST_NAMED = 10

_FAILED = ("failed", "upstream_failed")


class _Limits(NamedTuple):
    max_cost_usd: Decimal | None
    warn_cost_usd: Decimal | None


class DeepshiCostReportOperator(BaseOperator):
    """Report what the image tasks of this DAG run have cost; fail if that is too much, or if one of them failed.

    Put it behind the image tasks; by default it runs when all of them are done, whether they succeeded or failed. It
    writes ``report.json``, ``report.csv`` and ``report.html``, a self-contained page with the connection's budgets,
    thumbnails, and links to Airflow if ``[api] base_url`` is set. Sums are exact and include failed tries. Costs of a
    task that was killed are read from its records.

    :param task_ids: the task or list of tasks to report on; by default all image tasks of the DAG, and hooks'
        purchases in other tasks.
    :param output_uri: directory for the report; by default the connection's, then ``/<dag>/<run>/<task>``.
    :param output_conn_id: connection of the object store; by default the Deepshi connection's ``output_conn_id``.
    :param deepshi_conn_id: connection of type ``deepshi``.
    :param fail_on_failed_tasks: fail after the report is written if one of the tasks failed, or another task in which
        a hook sent a request. Airflow marks a run as successful if its last tasks succeeded, and the report is the last
        one.
    :param max_cost_usd: the task fails after the report is written if the run has cost more, in USD.
    :param warn_cost_usd: the task logs a warning if the run has cost more, in USD.
    :param trigger_rule: when to run; see Airflow's documentation.
    :returns: ``{"cost_usd", "untold", "images", "reused", "saved_usd", "unknown_outcomes", "may_have_cost_usd",
        "json_uri", "csv_uri", "html_uri"}``; and as XCom ``run_cost_usd`` the total, in USD. The report costs nothing,
        so it has no XCom ``cost_usd``: the sum of these over all tasks is the total without hooks' purchases.
    """

    template_fields: Sequence[str] = (
        "task_ids",
        "output_uri",
        "output_conn_id",
        "deepshi_conn_id",
        "max_cost_usd",
        "warn_cost_usd",
    )
    ui_color = "#f3e8ff"

    def __init__(
        self,
        *,
        task_ids: str | Sequence[str] | None = None,
        output_uri: str | None = None,
        output_conn_id: str | None = None,
        deepshi_conn_id: str = DeepshiHook.default_conn_name,
        fail_on_failed_tasks: bool = True,
        max_cost_usd: float | str | None = None,
        warn_cost_usd: float | str | None = None,
        trigger_rule: str = "all_done",
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.task_ids = task_ids
        self.output_uri = output_uri
        self.output_conn_id = output_conn_id
        self.deepshi_conn_id = deepshi_conn_id
        self.fail_on_failed_tasks = fail_on_failed_tasks
        self.max_cost_usd = max_cost_usd
        self.warn_cost_usd = warn_cost_usd

    def execute(self, context: Context) -> dict[str, Any]:
        """Read the cost sheets, write the report, then check the limits."""
        with final_errors():
            return self._execute(context)

    def _execute(self, context: Context) -> dict[str, Any]:
        limits = _Limits(amount("max_cost_usd", self.max_cost_usd), amount("warn_cost_usd", self.warn_cost_usd))
        owner = owner_of(context)
        task_ids = self._wanted(context)
        known = (*task_ids, owner.task_id)
        others = [t.task_id for t in context["dag"].tasks if t.task_id not in known] if is_blank(self.task_ids) else []
        sheets = _pulled(context, task_ids)
        of_hooks = [sheet for sheet in _pulled(context, others) if sheet.operation == "hook"]
        failed = _Failed.of(context, owner, task_ids, others, frozenset(sheet.task_id for sheet in of_hooks))
        sheets += of_hooks
        report, uris = run_here(self._report(owner, task_ids, sheets, failed, limits))
        context["ti"].xcom_push(key="run_cost_usd", value=as_number(report.cost_usd))
        try:
            self._judge(report, uris["html_uri"])
        except DeepshiError as err:
            err.set_task_costs(report.cost_usd, report.may_have_cost_usd)
            raise
        return {
            "cost_usd": as_number(report.cost_usd),
            "untold": report.untold,
            "images": report.images,
            "reused": report.reused,
            "saved_usd": as_number(report.saved_usd),
            "unknown_outcomes": report.unknown_outcomes,
            "may_have_cost_usd": as_number(report.may_have_cost_usd),
            **uris,
        }

    async def _report(
        self, owner: Owner, task_ids: list[str], sheets: list[CostSheet], failed: _Failed, limits: _Limits
    ) -> tuple[CostReport, dict[str, str]]:
        """Make the report and write it; return it with the URIs of its files."""
        hook = DeepshiHook(self.deepshi_conn_id)
        settings = await hook.asettings()
        store = output_store(self, settings, owner, "report")
        instances = await _complete(sheets, owner, task_ids, settings, all_hooks=is_blank(self.task_ids))
        listed = list(dict.fromkeys([*task_ids, *sorted(i.sheet.task_id for i in instances)]))
        instances.sort(key=lambda i: (listed.index(i.sheet.task_id), i.status == "hook", i.sheet.map_index))
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        names = failed.among(listed)
        report = make_report(owner.dag_id, owner.run_id, now, listed, instances, failed=names, **limits._asdict())
        html = as_html(
            report,
            await thumbnails((instance.sheet for instance in instances), STORES),
            budgets=await _budgets(hook),
            airflow_url=conf.get("api", "base_url", fallback="") or None,
        )
        return report, await _write(store, report, html)

    def _wanted(self, context: Context) -> list[str]:
        dag = context["dag"]
        if is_blank(self.task_ids) or self.task_ids is None:
            return [task.task_id for task in dag.tasks if _is_image_task(task)]
        named = [self.task_ids] if isinstance(self.task_ids, str) else list(self.task_ids)
        if missing := [str(task_id) for task_id in named if task_id not in dag.task_dict]:
            raise InvalidRequest(f"task_ids: this DAG has no task {', '.join(missing)}")
        return list(dict.fromkeys(named))

    def _judge(self, report: CostReport, uri: str) -> None:
        cost = report.cost_usd or Decimal(0)
        words = cost_text(report)
        self.log.info("This run has cost %s for %d images; report: %s", words, report.images, uri)
        if report.warn_cost_usd is not None and _may_exceed(report, report.warn_cost_usd):
            perhaps = "" if cost > report.warn_cost_usd else "perhaps "
            self.log.warning(
                "This run has cost %s, %smore than warn_cost_usd %s", words, perhaps, usd(report.warn_cost_usd)
            )
        failed = f"{len(report.failed)} image task(s) failed: {_shortened(report.failed)}" if report.failed else ""
        if report.max_cost_usd is not None and cost > report.max_cost_usd:
            raise BudgetExceeded(
                f"This run has cost {words}, more than max_cost_usd {usd(report.max_cost_usd)}. Report: {uri}"
                + (f". {failed}" if failed else "")
            )
        if failed and self.fail_on_failed_tasks:
            raise TasksFailed(f"{failed}. This run has cost {words}. Report: {uri}")


def _may_exceed(report: CostReport, limit: Decimal) -> bool:
    """Return whether a run has, or may have, cost more than the limit."""
    doubt = report.may_have_cost_usd
    return doubt is None or (report.cost_usd or Decimal(0)) + doubt > limit


class _Failed(NamedTuple):
    """Tasks that failed, or could not run because an upstream task failed.

    :param names: names of the task instances, by task.
    :param with_hooks: tasks other than image tasks in which a hook sent a request, even if all were free.
    """

    names: dict[str, list[str]]
    with_hooks: frozenset[str]

    @classmethod
    def of(
        cls, context: Context, owner: Owner, task_ids: list[str], others: list[str], with_hooks: frozenset[str]
    ) -> _Failed:
        """Ask Airflow for the states of some tasks, and of others."""
        ended = _failed_states(context, owner, others) if others else []
        rest = [t for t in others if any(n == t or n.removeprefix(f"{t}_").isdecimal() for n in ended)]
        names = {}
        for task_id in (*task_ids, *rest):  # one by one: Airflow calls a mapped task instance "<task>_<map index>"
            indexes = [name.removeprefix(task_id) for name in _failed_states(context, owner, [task_id])]
            names[task_id] = [f"{task_id}[{index[1:]}]" if index else task_id for index in indexes]
        return cls(names, with_hooks)

    def among(self, listed: list[str]) -> list[str]:
        """Return the names of the failed task instances of listed tasks, and of those with hooks."""
        return [n for task_id, names in self.names.items() if task_id in (*listed, *self.with_hooks) for n in names]


def _pulled(context: Context, task_ids: list[str]) -> list[CostSheet]:
    pulled = context["ti"].xcom_pull(task_ids=task_ids, key=XCOM_KEY) if task_ids else []
    return [CostSheet.model_validate(value) for value in pulled if value is not None]


def _failed_states(context: Context, owner: Owner, task_ids: list[str]) -> list[str]:
    """Return Airflow's names of the failed task instances of some tasks."""
    states_of = getattr(context["ti"], "get_task_states", None)
    if states_of is None:  # in a user's unit test, whose context has no other tasks
        return []
    states = states_of(dag_id=owner.dag_id, task_ids=task_ids, run_ids=[owner.run_id]).get(owner.run_id, {})
    return [name for name, state in states.items() if state in _FAILED]


def _shortened(names: list[str]) -> str:
    """Return the first names and the number of the rest: there may be thousands of mapped task instances."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _is_image_task(task: Any) -> bool:
    kind = getattr(task, "operator_class", type(task))  # the class that a mapped task will have
    return isinstance(kind, type) and issubclass(kind, ImageTask)


async def _complete(
    sheets: Iterable[CostSheet], owner: Owner, task_ids: list[str], settings: Settings, *, all_hooks: bool
) -> list[InstanceCosts]:
    """Return the sheets of all task instances; those of unfinished ones are made from their records.

    :param all_hooks: include hooks' purchases in all tasks of the run, not only in ``task_ids``.
    """
    instances, pulled_of_hooks = [], []
    for sheet in sheets:
        if sheet.operation == "hook":
            pulled_of_hooks.append(sheet)
        elif sheet.output_uri and (not sheet.ended or (sheet.cost_usd is None and not sheet.models)):
            instances.append(await _from_records(sheet, settings))
        else:
            instances.append(InstanceCosts(status="ended", sheet=sheet))
    listed = {(instance.sheet.task_id, instance.sheet.map_index) for instance in instances}
    entries = await _entries(owner, settings)
    for entry in entries:
        who = entry.owner
        if not entry.purchase and who.task_id in task_ids and (who.task_id, who.map_index) not in listed:
            # Killed after an earlier try's XComs were deleted, and before it pushed its own.
            store = STORES.at(entry.output_uri, entry.output_conn_id)
            prices = prices_of(settings, store)
            found = await read_sheet(store, who, entry.operation, ended=False, prices=prices)
            instances.append(InstanceCosts(status="not ended", sheet=found))
    bought = [entry for entry in entries if all_hooks or entry.owner.task_id in task_ids]
    # The entries include all tries, and the XComs purchases with other connections.
    by_hook = {(sheet.task_id, sheet.map_index): sheet for sheet in await purchase_sheets(bought, prices_of(settings))}
    of_others = []
    for sheet in pulled_of_hooks:
        known = by_hook.get((sheet.task_id, sheet.map_index))
        if not sheet.models:
            continue
        conn_ids = {known and known.deepshi_conn_id, sheet.deepshi_conn_id}
        if len(conn_ids - {None}) == 2:  # all of them in an earlier try
            of_others.append(sheet)
        elif known is None or _told(known) < _told(sheet):
            by_hook[sheet.task_id, sheet.map_index] = sheet
    return instances + [InstanceCosts(status="hook", sheet=sheet) for sheet in (*by_hook.values(), *of_others)]


def _told(sheet: CostSheet) -> tuple[Decimal, int, int]:
    """Return how much a sheet tells of a task's purchases."""
    images = sum(model.images for model in sheet.models)
    return sheet.cost_usd or Decimal(0), sheet.untold + sheet.unknown_outcomes, images


async def _from_records(sheet: CostSheet, settings: Settings) -> InstanceCosts:
    owner = Owner(**sheet.model_dump(include=set(Owner.model_fields)))
    store = STORES.at(sheet.output_uri, sheet.output_conn_id)
    found = await read_sheet(store, owner, sheet.operation, ended=sheet.ended, prices=prices_of(settings, store))
    return InstanceCosts(status="ended" if sheet.ended else "not ended", sheet=found)


async def _entries(owner: Owner, settings: Settings) -> list[RunEntry]:
    store = shared_store(settings)
    return await read_entries(store, owner.run_key) if store else []


async def _budgets(hook: DeepshiHook) -> list[WindowState]:
    """Return the state of the connection's budgets; empty if it cannot be read."""
    try:
        return await window_states(hook)
    except DeepshiError as err:
        log.warning("The report lacks the connection's budgets, which could not be read: %s", err)
        return []


async def _write(store: Store, report: CostReport, html: str) -> dict[str, str]:
    files = {
        "json": (report.model_dump_json(indent=2), "application/json"),
        "csv": (as_csv(report), "text/csv"),
        "html": (html, "text/html; charset=utf-8"),
    }
    for ending, (text, media_type) in files.items():

        def fill(file: BinaryIO, text: str = text) -> None:
            file.write(text.encode())

        await store.write_file(f"report.{ending}", fill, media_type)
    return {f"{ending}_uri": store.uri_of(f"report.{ending}") for ending in files}
