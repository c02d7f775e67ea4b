"""The base of all image operators: resolve the output directory, run or defer, stop cleanly, and report the cost."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar, NoReturn, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException, AirflowTaskTimeout, conf
from airflow.sdk import BaseOperator, Context
from jinja2 import TemplateNotFound

from deepshi_provider.api.requests import REQUEST_FIELDS, GenerateRequest
from deepshi_provider.api.texts import did_you_mean, is_blank
from deepshi_provider.client.budgets import LONGEST_GROUP
from deepshi_provider.client.settings import Settings
from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.money import as_number
from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet, Operation, cost_text
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
from deepshi_provider.operators.rendered import connection_id, dictionary, directory
from deepshi_provider.operators.retry import RETRY_AFTER
from deepshi_provider.reports.lineage import Lineage
from deepshi_provider.store.store import Store

#: Seconds between the job's deadline and Airflow's own timeout of the deferral: time to store the images.
DEFERRAL_MARGIN = 600

#: Default of ``deferrable``.
DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)

Result = TypeVar("Result")
#: URI of an output directory, and the connection id of its store.
Place = tuple[str, str | None]


class ImageTask(BaseOperator):
    """Parameters and lifecycle of an image task; subclasses add the requests.

    See :class:`~deepshi_provider.operators.images.DeepshiGenerateImageOperator` for the parameters.
    """

    #: The operation in the cost sheet of a task that fails before it has a request.
    operation: ClassVar[Operation] = "generate"
    _running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
    _killed = False
    _hook: DeepshiHook | None = None
    #: The try that the fields were rendered for.
    _owner: Owner | None = None
    #: Settings of the connection, set by :meth:`place`.
    settings: Settings | None = None
    #: Inputs, images and costs of the last try that ended in this process.
    lineage: Lineage | None = None
    operator_extra_links = LINKS
    #: Endings of files next to the DAG. Only ``file_fields`` are read from files: a key may have such an ending too.
    template_ext: Sequence[str] = (".jinja", ".md", ".sql", ".txt")
    file_fields: ClassVar[tuple[str, ...]] = ("prompt",)

    def __init__(
        self,
        *,
        prompt: str | None,
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
        """Replace file names by the files' text; a missing file fails later, when the task is rendered."""
        with contextlib.suppress(TemplateNotFound):
            self._read_files(self.get_template_env())
        self.prepare_template()

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the fields, but treat only prompts and queries as file names."""
        self._read_files(jinja_env or self.get_template_env())
        self._owner = owner_of(context) if context.get("ti") else None
        before = self.template_ext
        self.template_ext = ()
        try:
            super().render_template_fields(context, jinja_env)
        finally:
            self.template_ext = before

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], *args: Any, **kwargs: Any
    ) -> None:
        """Render the fields, for mapped tasks too; then keep only those that were given in the list of fields.

        Airflow shows all fields of the list as the task's rendered templates, and before it stores them it builds a
        validator for each, which takes as much processor time as everything else before the request.
        """
        super()._do_render_template_fields(parent, template_fields, *args, **kwargs)
        if parent is self:
            self.template_fields = tuple(name for name in template_fields if getattr(self, name) is not None)

    def _read_files(self, env: Any) -> None:
        for field in self.file_fields:
            name = getattr(self, field)
            if isinstance(name, str) and name.endswith(tuple(self.template_ext)) and not name.split()[1:]:
                if env.loader is None:  # the task is in no DAG
                    raise TemplateNotFound(name)
                setattr(self, field, env.loader.get_source(env, name)[0])

    @property
    def hook(self) -> DeepshiHook:
        """The hook of this try; it looks up its connection once."""
        if self._hook is None:
            self._hook = DeepshiHook(self.deepshi_conn_id)
        return self._hook

    def place(self, owner: Owner) -> Place:
        """Return the output directory's URI and the connection id of its store.

        :raises InvalidRequest: neither the operator nor the connection has an ``output_uri``.
        """
        self._hook = None  # a new try begins, and this operator may be a copy of one that has run
        return run_here(self._place(owner))

    async def _place(self, owner: Owner) -> Place:
        settings = self.settings = await self.hook.asettings()
        store = output_store(self, settings, owner, "images")
        await store.check()
        return store.uri, store.conn_id

    def await_here(self, work: Awaitable[Result]) -> Result:
        """Await the work in this process, so that :meth:`on_kill` and ``execution_timeout`` can end it.

        In both cases, images that have arrived are stored first.

        :raises AirflowException: the task was killed.
        :raises AirflowTaskTimeout: ``execution_timeout`` has passed.
        """

        async def interruptible() -> Result:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 -- a coroutine runs in a task
            self._running = asyncio.get_running_loop(), task
            if self._killed:  # killed before the coroutine started
                task.cancel()
            return await work

        try:
            return run_here(interruptible())
        except asyncio.CancelledError:
            raise AirflowException(
                "The task was killed. If its request had been sent, it may have been paid for: the claim is kept, and "
                "max_resends decides whether the next try sends the request again"
            ) from None
        finally:
            self._running = None

    def on_kill(self) -> None:
        """Close the connection immediately; the claim is kept to show the attempt to the next try."""
        self._killed = True
        if self._running:
            loop, task = self._running
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(task.cancel)

    def defer_job(self, job: Job | BatchJob, deadline: float | None) -> NoReturn:
        """Store the job and defer to the triggerer.

        :param deadline: unix seconds, or ``None`` if each request of the job has its own deadline.
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
        """Return the result of a deferred job; called by Airflow with the trigger's event."""
        from deepshi_provider.jobs.run import delete_job, load_outcome

        try:
            outcome = outcome_of(event)
        except ValueError as err:
            raise AirflowException(f"The trigger's event is invalid: {event!r}") from err
        if event and isinstance(event.get("job_uri"), str):
            is_batch = isinstance(outcome, BatchOutcome)
            run_here(delete_job(event["job_uri"], event.get("job_conn_id"), STORES, is_batch=is_batch))
        if event and isinstance(outcome, ImageOutcome) and "storage_conn_id" in event:
            try:
                outcome = run_here(load_outcome(str(outcome.manifest_uri), event.get("storage_conn_id"), STORES))
            except DeepshiError as err:
                self.fail(context, err, costs=self.costs_so_far(owner_of(context)))
        return self.finish(context, outcome)

    def finish(self, context: Context, ended: ImageOutcome | BatchOutcome) -> dict[str, Any]:
        """Push the task's costs, and return its result or raise its error."""
        costs = (ended.costs or self.costs_so_far(owner_of(context))).model_copy(
            update={"key": ended.key, "metadata": ended.metadata}
        )
        if isinstance(ended, BatchOutcome) and ended.plan:
            context["ti"].xcom_push(key=PLAN_KEY, value=ended.plan.as_xcom())
        try:
            if ended.error:
                error = DeepshiError.from_data(ended.error)
                self.fail(context, error, costs=costs, retry=ended.retry, noticed=ended.budget_warnings)
            self.push_costs(context, costs, noticed=ended.budget_warnings)
            if isinstance(ended, BatchOutcome) and ended.manifest_uri is None:
                self._stop_after_plan()
            elif self.outlets:
                self._add_asset_events(context, ended, costs)
            return ended.as_xcom()
        finally:  # a failed batch has images too
            self.lineage = report_lineage(self.deepshi_conn_id, ended, costs, self.input_uris)
            self.operator_extra_links = links_of(type(self).operator_extra_links, self.lineage)

    def dry_run(self) -> None:
        """Log what the task would buy. Sends no paid request and stores nothing.

        :raises DeepshiError: the plan could not be made.
        """
        owner = self._owner or Owner(dag_id=self.dag_id, run_id="dry_run", task_id=self.task_id)
        for line in self.plan(owner).as_lines():
            self.log.info("%s", line)

    def plan(self, owner: Owner) -> Plan:
        """Return what the task would buy; implemented by subclasses.

        :raises DeepshiError: the plan could not be made.
        """
        raise NotImplementedError

    def input_uris(self) -> list[str]:
        """Return the URIs of the task's inputs, for its lineage; overridden by operators that have inputs."""
        return []

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return datasets and run facet; called by the OpenLineage provider, if installed, when the task has ended."""
        from deepshi_provider.operators.openlineage import operator_lineage

        return self.lineage and operator_lineage(self.lineage)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Return datasets and run facet of a failed task: what was paid for before the failure."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _stop_after_plan(self) -> None:
        """Skip a task with outlets: a success would trigger other DAGs although nothing was bought."""
        if self.outlets:
            raise AirflowSkipException("plan_only: nothing was bought, and the task's assets are unchanged")

    def _add_asset_events(self, context: Context, ended: ImageOutcome | BatchOutcome, costs: CostSheet) -> None:
        def images() -> list[dict[str, Any]]:
            if isinstance(ended, ImageOutcome):
                return [{**image.model_dump(), "warnings": ended.warnings} for image in ended.images]
            from deepshi_provider.batch.run import images_of

            _, conn_id = self.place(owner_of(context))
            return run_here(images_of(str(ended.manifest_uri), conn_id, STORES))

        sums = {
            "images": ended.image_count,
            "cost_usd": as_number(costs.cost_usd),
            "untold": costs.untold,
            "unknown_outcomes": costs.unknown_outcomes,
            "may_have_cost_usd": as_number(costs.may_have_cost_usd),
            "manifest_uri": ended.manifest_uri,
            "warnings": ended.warnings,
        }
        add_asset_events(context, self.outlets, images, sums, ended.labels())

    def fail(
        self,
        context: Context,
        error: DeepshiError,
        *,
        costs: CostSheet,
        retry: bool | None = None,
        noticed: Sequence[WindowState] = (),
    ) -> NoReturn:
        """Push the failed task's costs and raise the error; Airflow does not retry errors that a retry cannot fix."""
        self.push_costs(context, costs, noticed=noticed)
        error.set_task_costs(costs.cost_usd, costs.may_have_cost_usd)
        if error.retryable if retry is None else retry:
            raise error
        raise final(error) from error

    @contextlib.contextmanager
    def failing(self, context: Context, owner: Owner, place: Place | None = None) -> Iterator[None]:
        """Push the costs of earlier tries if the block raises, since Airflow has deleted them; then raise its error.

        :param place: the output directory's URI and its connection id, if already looked up.
        """
        try:
            yield
        except DeepshiError as err:
            self.fail(context, err, costs=self.costs_so_far(owner, place))
        except (Exception, AirflowTaskTimeout):  # raised by the user's rows, or by execution_timeout
            self.push_earlier_costs(context, owner, place)
            raise

    def push_earlier_costs(self, context: Context, owner: Owner, place: Place | None = None) -> None:
        """Push the costs of earlier tries, if there were any: a first try has none, and perhaps its hooks' sheet."""
        if owner.try_number > 1:
            self.push_costs(context, self.costs_so_far(owner, place))

    def begin(self, context: Context, owner: Owner, place: Place, operation: Operation) -> None:
        """Push the costs of earlier tries before anything is sent, since this process may be killed.

        :param place: the output directory's URI and its connection id.
        """
        if owner.try_number == 1:
            costs = make_sheet(owner, operation, *place, ended=False)
        else:
            costs = run_here(self._sheet(owner, operation, place, ended=False))
        context["ti"].xcom_push(key=XCOM_KEY, value=self._labelled(costs).as_xcom())

    def push_costs(self, context: Context, costs: CostSheet, *, noticed: Sequence[WindowState] = ()) -> None:
        """Push the task's costs over all its tries, as a number and as a cost sheet; then warn of budgets.

        :param noticed: the budgets that the task's outcome names as nearly spent.
        """
        self.lineage = Lineage(costs=costs)
        self.operator_extra_links = links_of(type(self).operator_extra_links, self.lineage)
        ti = context["ti"]
        ti.xcom_push(key="cost_usd", value=as_number(costs.cost_usd))
        ti.xcom_push(key=XCOM_KEY, value=self._labelled(costs).as_xcom())
        self.log.info("This task instance has cost %s so far", cost_text(costs))
        warn(self.on_budget_warning, context, self, noticed)

    def _labelled(self, costs: CostSheet) -> CostSheet:
        group = None if is_blank(self.budget_group) else str(self.budget_group).strip()[:LONGEST_GROUP]
        return costs.model_copy(update={"deepshi_conn_id": self.deepshi_conn_id, "budget_group": group})

    def costs_so_far(self, owner: Owner, place: Place | None = None) -> CostSheet:
        """Return the cost sheet of a task that ends without an outcome.

        :param place: the output directory's URI and its connection id, if already looked up.
        """
        try:
            where = place or self.place(owner)
            return run_here(self._sheet(owner, self.operation, where, ended=True))
        except DeepshiError:
            # Without the output directory, the costs of earlier tries are unknown.
            cost = Decimal(0) if owner.try_number == 1 else None
            return make_sheet(owner, self.operation, "", None, ended=True, cost_usd=cost)

    async def _sheet(self, owner: Owner, operation: Operation, place: Place, *, ended: bool) -> CostSheet:
        store = STORES.at(*place)
        return await known_sheet(store, owner, operation, ended=ended, prices=await self._prices(store))

    async def _prices(self, store: Store) -> Prices:
        from deepshi_provider.hooks.jobs import prices_of

        return prices_of(await self.hook.asettings(), store)

    def request_fields(self) -> dict[str, Any]:
        """Return the request's fields, with ``extra_params``.

        :raises InvalidRequest: ``extra_params`` is not a dictionary, or repeats a parameter of the operator.
        """
        fields = {name: getattr(self, name) for name in REQUEST_FIELDS}
        extra = dictionary("extra_params", self.extra_params)
        if twice := sorted(extra.keys() & {*fields, "images", "stream"}):
            raise InvalidRequest(f"extra_params names fields that are parameters of the operator: {', '.join(twice)}")
        return {**fields, **extra}


def _advice(kind: type[ImageTask], given: Iterable[str]) -> str:
    """Return suggestions for arguments that the operator does not have."""
    ours = {name for parent in kind.__mro__ for name in inspect.signature(parent).parameters} - {"self"}
    unknown = [name for name in given if name not in ours]
    meant = "".join(did_you_mean(name, ours) for name in unknown)
    return f".{meant} Put fields of the model that the API does not document into extra_params" if unknown else ""


def output_store(task: Any, settings: Settings, owner: Owner, what: str) -> Store:
    """Return the store of an operator's output directory.

    :param task: the operator, with ``output_uri``, ``output_conn_id`` and ``deepshi_conn_id``.
    :param settings: settings of its connection.
    :param what: what is stored there, for the message.
    :raises InvalidRequest: neither the operator nor the connection has an ``output_uri``.
    """
    conn_id = connection_id("output_conn_id", task.output_conn_id, settings.output_conn_id)
    if not is_blank(task.output_uri):
        # Made absolute here, since a triggerer may run in another working directory.
        return STORES.at(directory("output_uri", task.output_uri), conn_id)
    if settings.output_uri is None:
        raise InvalidRequest(
            f"No output directory for the {what}: set output_uri on the operator, or in the extra of connection "
            f"{task.deepshi_conn_id!r}"
        )
    return STORES.at(default_output_uri(settings.output_uri, owner), conn_id)


def owner_of(context: Context) -> Owner:
    """Return the task instance and try of the context."""
    return Owner.of(context["ti"])
