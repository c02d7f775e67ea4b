"""The compared clients of the API, each a coroutine per picture."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from airflow.providers.http.triggers.http import HttpTrigger
from openai import AsyncOpenAI

from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from deepshi_provider.journal.entries import Owner

#: Makes one picture; the arguments are its number, its length in bytes, and its directory.
Make = Callable[[int, int, Path], Awaitable[None]]


@contextlib.asynccontextmanager
async def provider(url: str, directory: Path) -> AsyncIterator[Make]:
    """This provider's job, as the triggerer awaits it: to ``file://``, with claim, record and manifest."""

    async def make(number: int, size: int, to: Path) -> None:
        job = Job(
            operation="generate",
            fields={"model": "bench", "prompt": f"{size} bytes", "stream": True},
            owner=Owner(dag_id="bench", run_id=to.name, task_id="picture", map_index=number),
            output_uri=f"{to.as_uri()}/{number}",
            deepshi_conn_id="deepshi_default",
            preflight="off",
            deadline=time.time() + 600,
        )
        manifest = await run(job)
        if manifest.status != "success" or manifest.images[0].size_bytes != size:
            raise RuntimeError(manifest.model_dump_json())

    yield make


@contextlib.asynccontextmanager
async def sdk(url: str, directory: Path) -> AsyncIterator[Make]:
    """``openai.AsyncOpenAI`` as in the vendor's documentation: streaming, then ``base64``, then a file."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-bf-bench", max_retries=0) as client:

        async def make(number: int, size: int, to: Path) -> None:
            stream = await client.images.generate(model="bench", prompt=f"{size} bytes", stream=True)
            async for event in stream:
                if event.type == "image_generation.completed":
                    (to / f"{number}.png").write_bytes(base64.b64decode(event.b64_json))

        yield make


@contextlib.asynccontextmanager
async def http_trigger(url: str, directory: Path) -> AsyncIterator[Make]:
    """The http provider's trigger up to its event, which contains the body; a worker would still have to decode it."""

    async def make(number: int, size: int, to: Path) -> None:
        trigger = HttpTrigger(
            http_conn_id="bench_http",
            method="POST",
            endpoint="v1/images/generations",
            headers={"Content-Type": "application/json"},
            data=f'{{"model": "bench", "prompt": "{size} bytes"}}',
        )
        async for event in trigger.run():
            if len(event.payload["response"]["content"]) < size:
                raise RuntimeError("The event does not carry the answer")

    yield make


@contextlib.asynccontextmanager
async def floor(url: str, directory: Path) -> AsyncIterator[Make]:
    """The minimum: the provider's transport reads and discards, and the picture is written once."""
    settings = await DeepshiHook().asettings()
    async with settings.new_client() as client:
        pictures: dict[int, bytes] = {}

        async def make(number: int, size: int, to: Path) -> None:
            if size not in pictures:
                pictures[size] = (directory / f"{size}.png").read_bytes()
            fields = {"model": "bench", "prompt": f"{size} bytes", "stream": True}
            async with client.stream("POST", "/v1/images/generations", json=fields) as response:
                async for _ in response.aiter_bytes():
                    pass
            await asyncio.to_thread((to / f"{number}.png").write_bytes, pictures[size])

        yield make


CLIENTS = {"provider": provider, "sdk": sdk, "http_trigger": http_trigger, "floor": floor}
