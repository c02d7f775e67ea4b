"""Operators that generate and edit images, store them, and say what they cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar, Literal, NoReturn

from airflow.configuration import conf
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.sdk import BaseOperator, Context

from deepshi_provider.api.requests import EditRequest, GenerateRequest, build
from deepshi_provider.exceptions import DeepshiError, InvalidRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.jobs.job import Job, PreflightMode
from deepshi_provider.jobs.run import load_manifest, run, spent, store_job
from deepshi_provider.manifest import Manifest, Owner, as_number
from deepshi_provider.operators.rendered import default_output_uri, image_uris, is_blank
from deepshi_provider.triggers.images import DeepshiImagesTrigger

#: Seconds that Airflow's own timeout of a deferral comes after the job's deadline: time to store what was paid for.
DEFERRAL_MARGIN = 600

_REQUEST_FIELDS = (
    "prompt",
    "model",
    "n",
    "width",
    "height",
    "aspect_ratio",
    "resolution",
    "image_size",
    "quality",
    "output_format",
    "seed",
)


class DeepshiGenerateImageOperator(BaseOperator):
    """Generate images from a prompt, store them, and return where they are and what they cost.

    Fields of the request are templated; rendered text becomes what the field needs (``"1024"`` is a number), and
    ``None``, ``""`` and ``"None"`` are not sent. Which sizing fields count depends on the model: pixels (``width``,
    ``height``), ``aspect_ratio``, ``aspect_ratio`` with ``resolution``, or ``image_size``.

    :param prompt: what to draw.
    :param model: model id.
    :param n: pictures to make, 1 to 4.
    :param width: pixels.
    :param height: pixels.
    :param aspect_ratio: such as ``16:9``.
    :param resolution: ``1K``, ``2K`` or ``4K``; sets the price.
    :param image_size: preset, such as ``auto_2K``.
    :param quality: ``low``, ``medium`` or ``high``.
    :param output_format: ``png``, ``jpeg`` or ``webp``.
    :param seed: repeatable randomness, where the model has it.
    :param extra_params: fields that the API does not document, forwarded to the model.
    :param output_uri: directory for the images; by default the connection's, then ``/<dag>/<run>/<task>``.
    :param output_conn_id: connection of the object store; by default the Deepshi connection's ``output_conn_id``.
    :param deepshi_conn_id: connection of type ``deepshi``.
    :param reuse: take images that are stored for the same request, which costs nothing; ``False`` buys anew.
    :param max_resends: how often a request is sent again that may have been paid for already; 0 fails instead.
    :param preflight: check against the model catalog before paying: ``warn``, ``error`` or ``off``.
    :param generation_timeout: seconds for the request with its retries.
    :param stream: ask for Server-Sent Events; ``None`` does so for one picture.
    :param deferrable: wait in the triggerer, so that no worker slot is held.
    :returns: ``{"images": [{"uri", "index", "media_type", "width", "height", "size_bytes", "sha256",
        "revised_prompt"}], "model", "size", "created", "cost_usd", "usage", "sends", "unknown_outcomes", "reused",
        "manifest_uri"}``; and as XCom ``cost_usd`` what the task instance has cost over all its tries, in USD.
    """

    template_fields: Sequence[str] = (
        *_REQUEST_FIELDS,
        "extra_params",
        "output_uri",
        "output_conn_id",
        "deepshi_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"extra_params": "json"}
    ui_color = "#f3e8ff"

    operation: ClassVar[Literal["generate", "edit"]] = "generate"
    request_class: ClassVar[type[GenerateRequest]] = GenerateRequest

    _running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def __init__(
        self,
        *,
        prompt: str,
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

    def execute(self, context: Context) -> dict[str, Any]:
        """Carry out the request here, or hand it to the triggerer."""
        owner = _owner(context)
        try:
            output_uri, output_conn_id = self._output(owner)
        except DeepshiError as err:
            self._fail(context, err, cost=0.0)
        try:
            job = self._job(owner, output_uri, output_conn_id)
        except DeepshiError as err:
            self._fail(context, err, cost=as_number(asyncio.run(spent(output_uri, output_conn_id, owner))))
        if self.deferrable:
            self._defer(context, job)
        return self._finish(context, self._run(job))

    def execute_complete(self, context: Context, event: dict[str, Any] | None) -> dict[str, Any]:
        """Return what the trigger did; called by Airflow when its event has come."""
        if not event or event.get("status") not in ("success", "failed"):
            raise AirflowException(f"The trigger's event cannot be understood: {event!r}")
        if event["status"] == "success":
            try:
                manifest = asyncio.run(load_manifest(event["manifest_uri"], event["storage_conn_id"]))
            except DeepshiError as err:
                self._fail(context, err, cost=None)
            return self._finish(context, manifest)
        manifest = Manifest(owner=_owner(context), manifest_uri="", **event)
        return self._finish(context, manifest)

    def on_kill(self) -> None:
        """Close the connection at once; the claim stays, so that the next try knows of the sending."""
        if self._running:
            loop, task = self._running
            loop.call_soon_threadsafe(task.cancel)

    def _fields(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in _REQUEST_FIELDS}
        extra = self.extra_params or {}
        if not isinstance(extra, dict):
            raise InvalidRequest(f"extra_params must be a dictionary, got {type(extra).__name__}")
        if twice := sorted(extra.keys() & {*fields, "images", "stream"}):
            raise InvalidRequest(f"extra_params names fields that are parameters of the operator: {', '.join(twice)}")
        return {**fields, **extra}

    def _job(self, owner: Owner, output_uri: str, output_conn_id: str | None) -> Job:
        """Return the job; whatever cannot work fails here, before anything is paid."""
        request = build(self.request_class, self._fields())
        stream = request.n == 1 if self.stream is None else self.stream
        fields = request.model_dump(exclude_none=True) | {"stream": stream}
        return Job(
            operation=self.operation,
            fields=fields,
            owner=owner,
            output_uri=output_uri,
            output_conn_id=output_conn_id,
            deepshi_conn_id=self.deepshi_conn_id,
            reuse=self.reuse,
            max_resends=self.max_resends,
            preflight=self.preflight,
            deadline=time.time() + self.generation_timeout,
        )

    def _output(self, owner: Owner) -> tuple[str, str | None]:
        settings = asyncio.run(DeepshiHook(self.deepshi_conn_id).asettings())
        conn_id = settings.output_conn_id if is_blank(self.output_conn_id) else self.output_conn_id
        if not is_blank(self.output_uri):
            return str(self.output_uri), conn_id
        if settings.output_uri is None:
            raise InvalidRequest(
                "There is no place for the images: set output_uri on the operator, or in the extra of connection "
                f"{self.deepshi_conn_id!r}"
            )
        return default_output_uri(settings.output_uri, owner), conn_id

    def _run(self, job: Job) -> Manifest:
        async def interruptible() -> Manifest:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 -- a coroutine runs in a task
            self._running = asyncio.get_running_loop(), task
            return await run(job)

        try:
            return asyncio.run(interruptible())
        except asyncio.CancelledError:
            raise AirflowException(
                "The task was killed. If its request had been sent, it may have been paid for: the claim stays, and "
                "max_resends decides what the next try does"
            ) from None
        finally:
            self._running = None

    def _defer(self, context: Context, job: Job) -> NoReturn:
        try:
            job_uri = asyncio.run(store_job(job))
        except DeepshiError as err:
            self._fail(context, err, cost=None)
        self.defer(
            trigger=DeepshiImagesTrigger(
                job_uri=job_uri,
                storage_conn_id=job.output_conn_id,
                deepshi_conn_id=job.deepshi_conn_id,
                deadline=job.deadline,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.generation_timeout + DEFERRAL_MARGIN),
        )
        raise AssertionError("defer() does not return")

    def _finish(self, context: Context, manifest: Manifest) -> dict[str, Any]:
        cost = as_number(manifest.task_cost_usd)
        if manifest.error:
            self._fail(context, DeepshiError.from_data(manifest.error), cost=cost, retry=manifest.retry)
        context["ti"].xcom_push(key="cost_usd", value=cost)
        self.log.info("This task instance has cost %s so far", "an unknown sum" if cost is None else f"${cost:.6f}")
        return manifest.as_xcom()

    def _fail(
        self, context: Context, error: DeepshiError, *, cost: float | None, retry: bool | None = None
    ) -> NoReturn:
        """Say what the task has cost although it fails, and keep Airflow from retrying what no retry can mend."""
        context["ti"].xcom_push(key="cost_usd", value=cost)
        if error.retryable if retry is None else retry:
            raise error
        raise AirflowFailException(str(error)) from error


class DeepshiEditImageOperator(DeepshiGenerateImageOperator):
    """Edit images by a prompt, store the result, and return where it is and what it cost.

    :param images: the images to start from, 1 to 14 by model: URIs, local paths, or the XCom of a generate or edit
        task as it is (its images are taken), alone or in a list.

    All other parameters are those of :class:`DeepshiGenerateImageOperator`.
    """

    template_fields: Sequence[str] = ("images", *DeepshiGenerateImageOperator.template_fields)
    operation: ClassVar[Literal["generate", "edit"]] = "edit"
    request_class: ClassVar[type[GenerateRequest]] = EditRequest

    def __init__(self, *, images: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.images = images

    def _fields(self) -> dict[str, Any]:
        return {**super()._fields(), "images": image_uris(self.images)}


def _owner(context: Context) -> Owner:
    ti = context["ti"]
    return Owner(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
    )
