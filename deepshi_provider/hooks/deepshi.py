"""The Deepshi API as a hook of Airflow: a client with a connection in front."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from typing import Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException
from airflow.sdk import BaseHook

from deepshi_provider.api.catalog import ModelInfo
from deepshi_provider.api.requests import EditRequest, GenerateRequest, build
from deepshi_provider.client.client import Client
from deepshi_provider.client.result import ImagesResult
from deepshi_provider.client.settings import Settings
from deepshi_provider.client.telemetry import of_task
from deepshi_provider.costs.money import amount_of, paid
from deepshi_provider.exceptions import DeepshiError, InvalidConnection, InvalidRequest
from deepshi_provider.hooks.blocking import Result, in_loop, run_here
from deepshi_provider.hooks.connection import settings_of
from deepshi_provider.hooks.form import field_behaviour, form_widgets
from deepshi_provider.hooks.metrics import use_airflow_metrics
from deepshi_provider.hooks.supervisor import one_at_a_time

#: Stores images that have arrived.
Keep = Callable[[ImagesResult], Coroutine[Any, Any, None]]

_DRAWING = threading.Lock()


class DeepshiHook(BaseHook):
    """Generates and edits images, and lists models.

    Synchronous methods run their asynchronous twins (prefix ``a``). Inside a task, a hook's purchases count as
    spending of the DAG run (``max_run_cost_usd`` of its image tasks), if the connection has an ``output_uri``.

    :param deepshi_conn_id: connection of type ``deepshi``.
    """

    conn_name_attr = "deepshi_conn_id"
    default_conn_name = "deepshi_default"
    conn_type = "deepshi"
    hook_name = "Deepshi"

    def __init__(self, deepshi_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deepshi_conn_id = deepshi_conn_id
        self._client: Client | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's extra fields; called only by Airflow 3.1."""
        return form_widgets()

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return how the form shows the standard fields; called only by Airflow 3.1."""
        return field_behaviour()

    def generate(self, request: GenerateRequest) -> ImagesResult:
        """Generate images; see :meth:`agenerate`, to use where an event loop is running (notebooks, async tasks)."""
        return self._run(self.agenerate(request), instead="use `await hook.agenerate(…)`")

    def draw(
        self,
        prompt: str,
        model: str = "deepshi-banana-pro",
        width: int | None = None,
        height: int | None = None,
        max_cost_usd: float | None = None,
    ) -> dict[str, Any]:
        """Generate an image and store it; return where it is and what it cost. For agents: all arguments are JSON.

        Works only inside a task. The image goes to the task's directory below the connection's ``output_uri``.

        :param prompt: what to draw.
        :param model: model id.
        :param width: pixels.
        :param height: pixels.
        :param max_cost_usd: the most that hooks may spend in this task over all its tries, in USD. A request that
            would exceed it at the highest known price of its class is not sent; the first request of a class has no
            known price. Calls with a limit wait for each other.
        :returns: ``{"images": [{"uri", "width", "height", "media_type"}], "model", "cost_usd"}``.
        :raises BudgetExceeded: the request would, or may, exceed ``max_cost_usd``.
        """
        from deepshi_provider.hooks.drawing import draw  # not while DAGs are parsed

        fields = {"prompt": prompt, "model": model, "width": width, "height": height, "stream": True}
        request = build(GenerateRequest, fields)
        most = None if max_cost_usd is None else amount_of(max_cost_usd)
        if max_cost_usd is not None and most is None:
            raise InvalidRequest(f"max_cost_usd: an amount in USD is needed, got {str(max_cost_usd)[:40]!r}")
        work = draw(self, functools.partial(self._bought, request), request, most)
        # With a limit, each call must know what those before it have cost. In a running loop it fails without waiting.
        with nullcontext() if most is None or in_loop() else _DRAWING:
            return self._run(work, instead="call it with `await asyncio.to_thread(hook.draw, …)`")

    def edit(self, request: EditRequest) -> ImagesResult:
        """Edit images; see :meth:`aedit`."""
        return self._run(self.aedit(request), instead="use `await hook.aedit(…)`")

    def list_models(self) -> list[ModelInfo]:
        """Return the catalog; see :meth:`alist_models`."""
        return self._run(self.alist_models(), instead="use `await hook.alist_models()`")

    def test_connection(self) -> tuple[bool, str]:
        """Read the catalog, which is free. Called by the "Test" button of Airflow's connection form."""
        try:
            models = self.list_models()
        except DeepshiError as err:
            return False, str(err)
        return True, f"Connected; the key may use {len(models)} models"

    async def agenerate(self, request: GenerateRequest, *, timeout: float | None = None) -> ImagesResult:
        """Generate images; see :meth:`deepshi_provider.client.client.Client.generate`.

        :param timeout: seconds for all attempts and the waits between them.
        """
        return await self._bought(request, timeout=timeout)

    async def _bought(
        self, request: GenerateRequest, keep: Keep | None = None, *, timeout: float | None = None
    ) -> ImagesResult:
        client = await self.aclient()
        return await self._counted(request, functools.partial(client.generate, request, timeout=timeout), keep)

    async def aedit(
        self, request: EditRequest, *, images_conn_id: str | None = None, timeout: float | None = None
    ) -> ImagesResult:
        """Edit images; see :meth:`deepshi_provider.client.client.Client.edit`.

        :param images_conn_id: connection of the store with the input images.
        :param timeout: seconds for all attempts and the waits between them.
        """
        from deepshi_provider.hooks.directories import STORES  # not while DAGs are parsed
        from deepshi_provider.jobs.inputs import read_inputs

        client = await self.aclient()
        read = asyncio.to_thread(read_inputs, request.images, images_conn_id, STORES, request.input_sha256)
        with await read as inputs:
            return await self._counted(request, functools.partial(client.edit, request, inputs, timeout=timeout))

    async def alist_models(self) -> list[ModelInfo]:
        """Return the catalog (``GET /v1/models``): free, and limited to the key's models."""
        return await (await self.aclient()).list_models()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[DeepshiHook]:
        """Use one HTTP client for all calls inside the ``async with`` block."""
        async with (await self.aclient()).session():
            yield self

    async def asettings(self) -> Settings:
        """Return the connection's settings."""
        return (await self.aclient()).settings

    async def aclient(self) -> Client:
        """Return the client; the connection is looked up once."""
        if self._client is None:
            with self._found():
                self._client = Client(settings_of(await self.aget_connection(self.deepshi_conn_id)))
        use_airflow_metrics()
        return self._client

    def _run(self, work: Coroutine[Any, Any, Result], **options: str) -> Result:
        """Run a coroutine in this thread.

        Looks the connection up before: Airflow's asynchronous lookup hangs if loops of several threads use it.
        """
        with closing(work):
            if self._client is None and not in_loop():
                with self._found(), one_at_a_time():
                    self._client = Client(settings_of(self.get_connection(self.deepshi_conn_id)))
            return run_here(work, **options)

    @contextmanager
    def _found(self) -> Iterator[None]:
        try:
            yield
        except AirflowNotFoundException as err:
            raise InvalidConnection(f"The connection {self.deepshi_conn_id!r} is not defined") from err

    async def _counted(
        self,
        request: GenerateRequest,
        purchase: Callable[..., Coroutine[Any, Any, ImagesResult]],
        keep: Keep | None = None,
    ) -> ImagesResult:
        """Await a purchase and record its cost, or possible cost, for the DAG run's budget.

        :param purchase: sends the request; calls its argument ``interrupted`` like the client's methods.
        :param keep: stores images that have arrived, also if the task is cancelled.
        """
        from deepshi_provider.hooks.purchases import check_budgets, task_attributes  # not while DAGs are parsed

        arrived: list[ImagesResult | DeepshiError] = []
        try:
            await check_budgets(await self.asettings(), request)
            with of_task(task_attributes()):
                result = await purchase(interrupted=arrived.append)
        except DeepshiError as err:
            await self._record(request, err)
            raise
        except GeneratorExit:  # the coroutine is being closed and cannot await any more
            raise
        except BaseException:  # such as a cancellation by Airflow's execution_timeout
            for outcome in arrived:
                with outcome if isinstance(outcome, ImagesResult) else nullcontext():
                    await self._record(request, outcome, keep)
            raise
        try:
            await self._record(request, result, keep)
        except BaseException:
            result.close()
            raise
        return result

    async def _record(
        self, request: GenerateRequest, outcome: ImagesResult | DeepshiError, keep: Keep | None = None
    ) -> None:
        """Record a cost, or possible cost, for the DAG run's budget, and keep images; a cancellation waits for both."""
        from deepshi_provider.jobs.uninterrupted import uninterrupted  # not while DAGs are parsed

        await uninterrupted(self._recorded(request, outcome, keep))

    async def _recorded(
        self, request: GenerateRequest, outcome: ImagesResult | DeepshiError, keep: Keep | None
    ) -> None:
        from deepshi_provider.hooks.purchases import record_purchase, record_refusal  # not while DAGs are parsed

        settings = await self.asettings()
        if isinstance(outcome, ImagesResult):
            await record_purchase(settings, request, paid(outcome), "yes", len(outcome.images))
            if keep:
                await keep(outcome)
        elif outcome.charged == "no":
            await record_refusal(settings)
        else:
            # What may have been paid is not the 0 that may have been reported.
            cost = paid(outcome) if outcome.charged == "yes" else None
            await record_purchase(settings, request, cost, outcome.charged, 0)
