"""What all image operators do: find the place, run or defer, survive being killed, and say what it cost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, conf
from airflow.sdk import BaseOperator, Context

from deepshi_provider.api.requests import REQUEST_FIELDS
from deepshi_provider.exceptions import DeepshiError, InvalidRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.jobs.job import BatchJob, Job, PreflightMode
from deepshi_provider.jobs.run import load_manifest, spent, store_job
from deepshi_provider.jobs.run_batch import images_of
from deepshi_provider.manifest import Manifest, Owner, Summary, as_number
from deepshi_provider.operators.outlets import tell_outlets
from deepshi_provider.operators.rendered import default_output_uri, is_blank
from deepshi_provider.storage import Store
from deepshi_provider.triggers.images import DeepshiImagesTrigger

#: Seconds that Airflow's own timeout of a deferral comes after the job's deadline: time to store what was paid for.
DEFERRAL_MARGIN = 600

Result = TypeVar("Result")


class ImageTask(BaseOperator):
    """Parameters and life of an image task; the operators add their requests.

    Parameters are described at :class:`~deepshi_provider.operators.images.DeepshiGenerateImageOperator`.
    """

    _running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
    _killed = False

    def __init__(
        self,
        *,
        prompt: str | None = None,
        model: str = "deepshi-banana-pro",
        n: int | str = 1,
        width: int | str | None = None,
        height: int | str | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        image_size: str | None = None,
        quality: str | None = None,
        output_format: str | None = None,
        seed: int | str | None = None,
        extra_params: dict[str, Any] | None = None,
        output_uri: str | None = None,
        output_conn_id: str | None = None,
        deepshi_conn_id: str = DeepshiHook.default_conn_name,
        reuse: bool = True,
        max_resends: int = 1,
        preflight: PreflightMode = "warn",
        generation_timeout: float = 600,
        stream: bool | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
        self.output_uri = output_uri
        self.output_conn_id = output_conn_id
        self.deepshi_conn_id = deepshi_conn_id
        self.reuse = reuse
        self.max_resends = max_resends
        self.preflight = preflight
        self.generation_timeout = generation_timeout
        self.stream = stream
        self.deferrable = deferrable

    def place(self, owner: Owner) -> tuple[str, str | None]:
        """Return where the images go, and the connection of that store.

        :raises InvalidRequest: neither the operator nor the connection tells.
        """
        settings = asyncio.run(DeepshiHook(self.deepshi_conn_id).asettings())
        conn_id = settings.output_conn_id if is_blank(self.output_conn_id) else self.output_conn_id
        if not is_blank(self.output_uri):
            # Absolute, whatever the directory that a triggerer runs in.
            store = Store(str(self.output_uri), conn_id)
            return store.uri, store.conn_id
        if settings.output_uri is None:
            raise InvalidRequest(
                "There is no place for the images: set output_uri on the operator, or in the extra of connection "
                f"{self.deepshi_conn_id!r}"
            )
        store = Store(default_output_uri(settings.output_uri, owner), conn_id)
        return store.uri, store.conn_id

    def await_here(self, work: Awaitable[Result]) -> Result:
        """Await the work in this process, so that :meth:`on_kill` can end it.

        :raises AirflowException: it was killed.
        """

        async def interruptible() -> Result:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 -- a coroutine runs in a task
            self._running = asyncio.get_running_loop(), task
            if self._killed:  # before there was anything to cancel
                task.cancel()
            return await work

        try:
            return asyncio.run(interruptible())
        except asyncio.CancelledError:
            raise AirflowException(
                "The task was killed. If its request had been sent, it may have been paid for: the claim stays, and "
                "max_resends decides what the next try does"
            ) from None
        finally:
            self._running = None

    def on_kill(self) -> None:
        """Close the connection at once; the claim stays, so that the next try knows of the sending."""
        self._killed = True
        if self._running:
            loop, task = self._running
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(task.cancel)

    def defer_job(self, job: Job | BatchJob, deadline: float | None) -> NoReturn:
        """Hand a stored job to the triggerer.

        :param deadline: unix seconds, or ``None`` if the job's requests have deadlines of their own.
        """
        job_uri = asyncio.run(store_job(job))
        self.defer(
            trigger=DeepshiImagesTrigger(
                job_uri=job_uri,
                storage_conn_id=job.output_conn_id,
                deepshi_conn_id=job.deepshi_conn_id,
                deadline=deadline,
            ),
            method_name="execute_complete",
            timeout=None if deadline is None else timedelta(seconds=self.generation_timeout + DEFERRAL_MARGIN),
        )
        raise AssertionError("defer() does not return")

    def execute_complete(self, context: Context, event: dict[str, Any] | None) -> dict[str, Any]:
        """Return what the trigger did; called by Airflow when its event has come."""
        told = dict(event or {})
        kind, status = told.pop("kind", None), told.get("status")
        if kind not in ("single", "batch") or status not in ("success", "failed"):
            raise AirflowException(f"The trigger's event cannot be understood: {event!r}")
        if kind == "batch":
            return self.finish(context, Summary.model_validate(told))
        if status == "failed":
            return self.finish(context, Manifest(owner=owner_of(context), manifest_uri="", **told))
        try:
            manifest = asyncio.run(load_manifest(told["manifest_uri"], told["storage_conn_id"]))
        except DeepshiError as err:
            owner = owner_of(context)
            self.fail(context, err, cost=cost_so_far(*self.place(owner), owner))
        return self.finish(context, manifest)

    def finish(self, context: Context, ended: Manifest | Summary) -> dict[str, Any]:
        """Push what the task has cost, and return its result or raise its error."""
        cost = as_number(ended.task_cost_usd)
        if ended.error:
            self.fail(context, DeepshiError.from_data(ended.error), cost=cost, retry=ended.retry)
        self._push_cost(context, cost)
        if self.outlets:
            self._tell_outlets(context, ended)
        return ended.as_xcom()

    def _tell_outlets(self, context: Context, ended: Manifest | Summary) -> None:
        def images() -> list[dict[str, Any]]:
            if isinstance(ended, Manifest):
                return [image.model_dump() for image in ended.images]
            _, conn_id = self.place(owner_of(context))
            return asyncio.run(images_of(str(ended.manifest_uri), conn_id))

        count = len(ended.images) if isinstance(ended, Manifest) else ended.created + ended.reused
        cost = as_number(ended.task_cost_usd)
        told = {"images": count, "cost_usd": cost, "manifest_uri": ended.manifest_uri}
        tell_outlets(context, self.outlets, images, told)

    def fail(self, context: Context, error: DeepshiError, *, cost: float | None, retry: bool | None = None) -> NoReturn:
        """Say what the task has cost although it fails, and keep Airflow from retrying what no retry can mend."""
        self._push_cost(context, cost)
        if error.retryable if retry is None else retry:
            raise error
        raise AirflowFailException(str(error)) from error

    def _push_cost(self, context: Context, cost: float | None) -> None:
        context["ti"].xcom_push(key="cost_usd", value=cost)
        self.log.info("This task instance has cost %s so far", "an unknown sum" if cost is None else f"${cost:.6f}")

    def request_fields(self) -> dict[str, Any]:
        """Return the request's fields as the operator names them.

        :raises InvalidRequest: ``extra_params`` cannot be used.
        """
        fields = {name: getattr(self, name) for name in REQUEST_FIELDS}
        extra = {} if is_blank(self.extra_params) else self.extra_params
        if not isinstance(extra, dict):
            raise InvalidRequest(f"extra_params must be a dictionary, got {type(extra).__name__}")
        if twice := sorted(extra.keys() & {*fields, "images", "stream"}):
            raise InvalidRequest(f"extra_params names fields that are parameters of the operator: {', '.join(twice)}")
        return {**fields, **extra}


def cost_so_far(output_uri: str, output_conn_id: str | None, owner: Owner) -> float | None:
    """Return what a task instance has cost in earlier tries, in USD."""
    return as_number(asyncio.run(spent(output_uri, output_conn_id, owner)))


def owner_of(context: Context) -> Owner:
    """Return which try of which task instance this is."""
    ti = context["ti"]
    return Owner(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
    )
