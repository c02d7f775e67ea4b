"""What all image operators share: resolve the output directory, run or defer, stop cleanly, and report the cost."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Iterable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar, NoReturn, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException, conf
from airflow.sdk import BaseOperator, Context
from jinja2 import TemplateNotFound

from deepshi_provider.api.requests import REQUEST_FIELDS, GenerateRequest
from deepshi_provider.api.texts import did_you_mean, is_blank
from deepshi_provider.client.settings import Settings
from deepshi_provider.costs.money import as_number
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet, Operation, in_words
from deepshi_provider.exceptions import DeepshiError, InvalidRequest
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.directories import STORES, default_output_uri
from deepshi_provider.jobs.job import BatchJob, Job, MismatchMode, PreflightMode
from deepshi_provider.jobs.outcome import BatchOutcome, ImageOutcome, outcome_of
from deepshi_provider.jobs.plan import PLAN_KEY, Plan
from deepshi_provider.journal.entries import Owner
from deepshi_provider.journal.prices import Prices
from deepshi_provider.journal.sheets import known_sheet, make_sheet
from deepshi_provider.links.images import LINKS, links_of
from deepshi_provider.operators.final import final
from deepshi_provider.operators.lineage import report_lineage
from deepshi_provider.operators.notifications import Callbacks, warn
from deepshi_provider.operators.outlets import add_asset_events
from deepshi_provider.operators.rendered import LONGEST_GROUP, dictionary
from deepshi_provider.operators.retry import RETRY_AFTER
from deepshi_provider.reports.lineage import Lineage
from deepshi_provider.store.store import Store

#: Seconds that Airflow's own timeout of a deferral comes after the job's deadline: time to store what was paid for.
DEFERRAL_MARGIN = 600

#: Default of ``deferrable``.
DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)

Result = TypeVar("Result")


class ImageTask(BaseOperator):
    """Parameters and life of an image task; the operators add their requests.

    Parameters are described at :class:`~deepshi_provider.operators.images.DeepshiGenerateImageOperator`.
    """

    #: The operation on the cost sheet of a task that fails before it has a request.
    operation: ClassVar[Operation] = "generate"
    _running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
    _killed = False
    _hook: DeepshiHook | None = None
    #: The try that the fields were rendered for.
    _owner: Owner | None = None
    #: Of the connection, once :meth:`place` has looked it up.
    settings: Settings | None = None
    #: What the last try in this process read and made, once it has ended.
    lineage: Lineage | None = None
    operator_extra_links = LINKS
    #: A prompt or a query may be a file beside the DAG; other fields, such as keys, may end like one.
    template_ext: Sequence[str] = (".jinja", ".md", ".sql", ".txt")
    file_fields: ClassVar[tuple[str, ...]] = ("prompt",)

    def __init__(
        self,
        *,
        prompt: str | None = None,
        model: str | None = GenerateRequest.default_model,
        n: int | str = 1,
        width: int | str | None = None,
        height: int | str | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        image_size: str | None = None,
        quality: str | None = None,
        output_format: str | None = None,
        seed: int | str | None = None,
        extra_params: dict[str, Any] | str | None = None,
        key: Any = None,
        metadata: Any = None,
        output_uri: str | None = None,
        output_conn_id: str | None = None,
        deepshi_conn_id: str = DeepshiHook.default_conn_name,
        reuse: bool = True,
        max_resends: int = 1,
        max_run_cost_usd: float | str | None = None,
        budget_group: str | None = None,
        on_budget_warning: Callbacks = None,
        preflight: PreflightMode = "error",
        on_mismatch: MismatchMode = "warn",
        fallbacks: list[dict[str, Any]] | str | None = None,
        fallback_on_refusal: bool = False,
        generation_timeout: float = 600,
        stream: bool | None = None,
        deferrable: bool = DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init__(**kwargs)
        except TypeError as err:
            raise TypeError(f"{err}{_advice(type(self), kwargs)}") from err
        if RETRY_AFTER is not None and self.retry_policy is None:
            self.retry_policy = RETRY_AFTER
        self.prompt = prompt
        self.model = model
        self.n = n
        self.width = width
        self.height = height
        self.aspect_ratio = aspect_ratio
        self.resolution = resolution
        self.image_size = image_size
        self.quality = quality
        self.output_format = output_format
        self.seed = seed
        self.extra_params = extra_params
        self.key = key
        self.metadata = metadata
        self.output_uri = output_uri
        self.output_conn_id = output_conn_id
        self.deepshi_conn_id = deepshi_conn_id
        self.reuse = reuse
        self.max_resends = max_resends
        self.max_run_cost_usd = max_run_cost_usd
        self.budget_group = budget_group
        self.on_budget_warning = on_budget_warning
        self.preflight = preflight
        self.on_mismatch = on_mismatch
        self.fallbacks = fallbacks
        self.fallback_on_refusal = fallback_on_refusal
        self.generation_timeout = generation_timeout
        self.stream = stream
        self.deferrable = deferrable

    def resolve_template_files(self) -> None:
        """Put files in place of their names; one that is missing fails when the task is rendered."""
        with contextlib.suppress(TemplateNotFound):
            self._read_files(self.get_template_env())
        self.prepare_template()

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render as all operators do, but take only prompts and queries for names of files."""
        self._read_files(jinja_env or self.get_template_env())
        self._owner = owner_of(context) if context.get("ti") else None
        before = self.template_ext
        self.template_ext = ()
        try:
            super().render_template_fields(context, jinja_env)
        finally:
            self.template_ext = before

    def _read_files(self, env: Any) -> None:
        for field in self.file_fields:
            name = getattr(self, field)
            if isinstance(name, str) and name.endswith(tuple(self.template_ext)) and not name.split()[1:]:
                if env.loader is None:  # the task is in no DAG
                    raise TemplateNotFound(name)
                setattr(self, field, env.loader.get_source(env, name)[0])

    @property
    def hook(self) -> DeepshiHook:
        """The hook of this try, which looks its connection up once."""
        if self._hook is None:
            self._hook = DeepshiHook(self.deepshi_conn_id)
        return self._hook

    def place(self, owner: Owner) -> tuple[str, str | None]:
        """Return where the images go, and the connection of that store.

        :raises InvalidRequest: neither the operator nor the connection names one.
        """
        self._hook = None  # a try begins, perhaps of another operator's copy
        return run_here(self._place(owner))

    async def _place(self, owner: Owner) -> tuple[str, str | None]:
        settings = self.settings = await self.hook.asettings()
        conn_id = settings.output_conn_id if is_blank(self.output_conn_id) else self.output_conn_id
        if not is_blank(self.output_uri):
            # Absolute, whatever the directory that a triggerer runs in.
            store = STORES.at(str(self.output_uri), conn_id)
        elif settings.output_uri is not None:
            store = STORES.at(default_output_uri(settings.output_uri, owner), conn_id)
        else:
            raise InvalidRequest(
                "There is no place for the images: set output_uri on the operator, or in the extra of connection "
                f"{self.deepshi_conn_id!r}"
            )
        await store.check()
        return store.uri, store.conn_id

    def await_here(self, work: Awaitable[Result]) -> Result:
        """Await the work in this process, so that :meth:`on_kill` and ``execution_timeout`` can end it.

        What was paid for and received is stored first, in both cases.

        :raises AirflowException: it was killed.
        :raises AirflowTaskTimeout: ``execution_timeout`` has passed.
        """

        async def interruptible() -> Result:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 -- a coroutine runs in a task
            self._running = asyncio.get_running_loop(), task
            if self._killed:  # before there was anything to cancel
                task.cancel()
            return await work

        try:
            return run_here(interruptible())
        except asyncio.CancelledError:
            raise AirflowException(
                "The task was killed. If its request had been sent, it may have been paid for: the claim stays, and "
                "max_resends decides what the next try does"
            ) from None
        finally:
            self._running = None

    def on_kill(self) -> None:
        """Close the connection at once; the claim stays, so that the next try knows of the attempt."""
        self._killed = True
        if self._running:
            loop, task = self._running
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(task.cancel)

    def defer_job(self, job: Job | BatchJob, deadline: float | None) -> NoReturn:
        """Hand a stored job to the triggerer.

        :param deadline: unix seconds, or ``None`` if the job's requests have deadlines of their own.
        """
        from deepshi_provider.jobs.run import store_job
        from deepshi_provider.triggers.images import DeepshiImagesTrigger

        job_uri = run_here(store_job(job, STORES))
        self.defer(
            trigger=DeepshiImagesTrigger(
                job_uri=job_uri,
                storage_conn_id=job.output_conn_id,
                deepshi_conn_id=job.deepshi_conn_id,
                deadline=deadline,
            ),
            method_name="execute_complete",
            timeout=None if deadline is None else timedelta(seconds=deadline - time.time() + DEFERRAL_MARGIN),
        )
        raise AssertionError("defer() does not return")

    def execute_complete(self, context: Context, event: dict[str, Any] | None) -> dict[str, Any]:
        """Return what the trigger did; called by Airflow when its event has come."""
        from deepshi_provider.jobs.run import load_outcome

        try:
            outcome = outcome_of(event)
        except ValueError as err:
            raise AirflowException(f"The trigger's event cannot be understood: {event!r}") from err
        if event and isinstance(outcome, ImageOutcome) and "storage_conn_id" in event:
            try:
                outcome = run_here(load_outcome(str(outcome.manifest_uri), event.get("storage_conn_id"), STORES))
            except DeepshiError as err:
                self.fail(context, err, costs=self.costs_so_far(owner_of(context)))
        return self.finish(context, outcome)

    def finish(self, context: Context, ended: ImageOutcome | BatchOutcome) -> dict[str, Any]:
        """Push what the task has cost, and return its result or raise its error."""
        costs = (ended.costs or self.costs_so_far(owner_of(context))).model_copy(
            update={"key": ended.key, "metadata": ended.metadata}
        )
        for state in ended.budget_warnings:
            warn(self.on_budget_warning, context, state)
        if isinstance(ended, BatchOutcome) and ended.plan:
            context["ti"].xcom_push(key=PLAN_KEY, value=ended.plan.as_xcom())
        try:
            if ended.error:
                self.fail(context, DeepshiError.from_data(ended.error), costs=costs, retry=ended.retry)
            self.push_costs(context, costs)
            if isinstance(ended, BatchOutcome) and ended.manifest_uri is None:
                self._stop_after_plan()
            elif self.outlets:
                self._add_asset_events(context, ended, costs)
            return ended.as_xcom()
        finally:  # a failed batch has images too
            self.lineage = report_lineage(self.deepshi_conn_id, ended, costs, self.input_uris)
            self.operator_extra_links = links_of(self.lineage)

    def dry_run(self) -> None:
        """Log what the task would buy; nothing is sent that costs money, and nothing is stored.

        :raises DeepshiError: that cannot be found out.
        """
        owner = self._owner or Owner(dag_id=self.dag_id, run_id="dry_run", task_id=self.task_id)
        for line in self.plan(owner).as_lines():
            self.log.info("%s", line)

    def plan(self, owner: Owner) -> Plan:
        """Return what the task would buy; the operators say it.

        :raises DeepshiError: that cannot be found out.
        """
        raise NotImplementedError

    def input_uris(self) -> list[str]:
        """Return what the task reads, for its lineage; the operators that read override it."""
        return []

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return datasets and run facet; called by the OpenLineage provider, if there is one, after the task's end."""
        from deepshi_provider.operators.openlineage import operator_lineage

        return self.lineage and operator_lineage(self.lineage)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Return the same after a failure: what was paid for until then."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _stop_after_plan(self) -> None:
        """Keep Airflow from telling other DAGs that assets were updated, which nothing was bought for."""
        if self.outlets:
            raise AirflowSkipException("plan_only: nothing was bought, and the task's assets are as they were")

    def _add_asset_events(self, context: Context, ended: ImageOutcome | BatchOutcome, costs: CostSheet) -> None:
        def images() -> list[dict[str, Any]]:
            if isinstance(ended, ImageOutcome):
                return [{**image.model_dump(), "warnings": ended.warnings} for image in ended.images]
            from deepshi_provider.batch.run import images_of

            _, conn_id = self.place(owner_of(context))
            return run_here(images_of(str(ended.manifest_uri), conn_id, STORES))

        count = len(ended.images) if isinstance(ended, ImageOutcome) else ended.created + ended.reused
        sums = {
            "images": count,
            "cost_usd": as_number(costs.cost_usd),
            "untold": costs.untold,
            "unknown_outcomes": costs.unknown_outcomes,
            "may_have_cost_usd": as_number(costs.may_have_cost_usd),
            "manifest_uri": ended.manifest_uri,
            "warnings": ended.warnings,
        }
        add_asset_events(context, self.outlets, images, sums, ended.labels())

    def fail(self, context: Context, error: DeepshiError, *, costs: CostSheet, retry: bool | None = None) -> NoReturn:
        """Push what the failed task has cost, and keep Airflow from retrying errors that a retry cannot fix."""
        self.push_costs(context, costs)
        error.set_task_costs(costs.cost_usd, costs.may_have_cost_usd)
        if error.retryable if retry is None else retry:
            raise error
        raise final(error) from error

    def begin(self, context: Context, owner: Owner, place: tuple[str, str | None], operation: Operation) -> None:
        """Push what earlier tries have cost, before anything is sent: this process may be killed.

        :param place: output directory and its connection.
        """
        if owner.try_number == 1:
            costs = make_sheet(owner, operation, *place, ended=False)
        else:
            costs = run_here(self._sheet(owner, operation, place, ended=False))
        context["ti"].xcom_push(key=XCOM_KEY, value=self._with_group(costs).as_xcom())

    def push_costs(self, context: Context, costs: CostSheet) -> None:
        """Push what the task has cost over all its tries: as a number, and as a cost sheet."""
        self.lineage = Lineage(costs=costs)
        self.operator_extra_links = links_of(self.lineage)
        ti = context["ti"]
        ti.xcom_push(key="cost_usd", value=as_number(costs.cost_usd))
        ti.xcom_push(key=XCOM_KEY, value=self._with_group(costs).as_xcom())
        self.log.info("This task instance has cost %s so far", in_words(costs))

    def _with_group(self, costs: CostSheet) -> CostSheet:
        group = None if is_blank(self.budget_group) else str(self.budget_group).strip()[:LONGEST_GROUP]
        return costs.model_copy(update={"budget_group": group})

    def costs_so_far(self, owner: Owner, place: tuple[str, str | None] | None = None) -> CostSheet:
        """Return the sheet of a task that ends without a job's end.

        :param place: output directory and its connection, if they were looked up before.
        """
        try:
            where = place or self.place(owner)
            return run_here(self._sheet(owner, self.operation, where, ended=True))
        except DeepshiError:
            # Without the place it is not known what earlier tries have cost.
            cost = Decimal(0) if owner.try_number == 1 else None
            return make_sheet(owner, self.operation, "", None, ended=True, cost_usd=cost)

    async def _sheet(
        self, owner: Owner, operation: Operation, place: tuple[str, str | None], *, ended: bool
    ) -> CostSheet:

        store = STORES.at(*place)
        return await known_sheet(store, owner, operation, ended=ended, prices=await self._prices(store))

    async def _prices(self, store: Store) -> Prices:
        from deepshi_provider.hooks.jobs import prices_of

        return prices_of(await self.hook.asettings(), store)

    def request_fields(self) -> dict[str, Any]:
        """Return the request's fields as the operator names them.

        :raises InvalidRequest: ``extra_params`` cannot be used.
        """
        fields = {name: getattr(self, name) for name in REQUEST_FIELDS}
        extra = dictionary("extra_params", self.extra_params)
        if twice := sorted(extra.keys() & {*fields, "images", "stream"}):
            raise InvalidRequest(f"extra_params names fields that are parameters of the operator: {', '.join(twice)}")
        return {**fields, **extra}


def _advice(kind: type[ImageTask], given: Iterable[str]) -> str:
    """Return what may have been meant by arguments that Airflow does not know."""
    ours = {name for parent in kind.__mro__ for name in inspect.signature(parent).parameters} - {"self"}
    unknown = [name for name in given if name not in ours]
    meant = "".join(did_you_mean(name, ours) for name in unknown)
    return f".{meant} Fields of the model that the API does not document belong into extra_params" if unknown else ""


def owner_of(context: Context) -> Owner:
    """Return which try of which task instance this is."""
    return Owner.of(context["ti"])
