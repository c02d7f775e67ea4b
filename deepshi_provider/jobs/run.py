"""Runs a job to its end and stores the outcome."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from deepshi_provider.api.postcheck import added, mismatches
from deepshi_provider.api.requests import EditRequest
from deepshi_provider.client.client import Client
from deepshi_provider.client.telemetry import of_task
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.exceptions import (
    DeepshiError,
    OutcomeUnknown,
    ResendsExhausted,
    ResultMismatch,
    StorageFailed,
    TimedOut,
)
from deepshi_provider.jobs.context import JobContext
from deepshi_provider.jobs.engine import Engine
from deepshi_provider.jobs.job import BatchJob, Job, rows_of
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.journal.entries import IMAGE, Record, unsettled
from deepshi_provider.journal.journal import Journal, Purchase
from deepshi_provider.journal.lease import TIMES, Times
from deepshi_provider.journal.sheets import (
    sheet_images,
    sheet_sources,
    sheet_warnings,
)
from deepshi_provider.store.store import PATIENCE, Store
from deepshi_provider.store.stores import Stores

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")


async def run_single(
    job: Job,
    client: Client,
    stores: Stores,
    *,
    interrupted: Callable[[CostSheet], None] | None = None,
    patience: float = PATIENCE,
    times: Times = TIMES,
) -> ImageOutcome:
    """Run a job and return its outcome; after a success, store the manifest too.

    Blocking operators and triggers await this same coroutine. Cancelling it closes the connection and leaves the
    claim; images that have already arrived are stored first.

    :param client: the client of the account that pays.
    :param stores: opens the job's directory, and those of input images.
    :param interrupted: called with the costs that this process knows, if it is cancelled or fails unexpectedly.
    :param patience: seconds to keep trying a store that fails after payment.
    :param times: how long processes wait for each other.
    """
    store = stores.at(job.output_uri, job.output_conn_id, patience=patience)
    with Journal(store, IMAGE) as journal:
        context = JobContext.of(job, client, stores, store, journal, times=times)
        engine = Engine(context, IMAGE, job.request)
        try:
            with of_task(job.owner.attributes):
                return await _outcome_of(job, context, engine)
        except (asyncio.CancelledError, Exception):  # cancelled, or an unexpected error such as a full disk
            if interrupted is not None:
                interrupted(context.sheet(context.known_tally()))
            raise


async def _outcome_of(job: Job, context: JobContext, engine: Engine) -> ImageOutcome:
    try:
        async with context.client.session(files=context.store.files), context.lease:
            purchase = await engine.run()
        return await _success(job, context, engine, purchase)
    except DeepshiError as err:
        return await _failure(job, context, engine, err)


async def load_job(uri: str, conn_id: str | None, stores: Stores) -> Job | BatchJob:
    """Return a stored job, with its deadline by this machine's clock.

    The job's age is measured by the store's clock, since the clocks of two machines may differ.

    :raises StorageFailed: the job is missing or cannot be read.
    """
    store, name = stores.object_at(uri, conn_id)
    job = _parsed(uri, _any_job(), await _load(store, name, "job"))
    if isinstance(job, BatchJob):
        return job  # each of its requests has its own deadline
    try:
        job = job.arrived(await store.age(name), time.time())
    except StorageFailed as err:
        log.warning("The store did not return the job's age, so this machine's clock decides the deadline: %s", err)
    if job.clock_warning:
        log.warning("%s", job.clock_warning)
    return job


async def delete_job(uri: str, conn_id: str | None, stores: Stores, *, is_batch: bool) -> None:
    """Delete a job whose outcome has arrived, and its rows: they hold prompts. A failure here is only logged.

    Another triggerer that still starts this job then fails before it sends anything, and its event is ignored.
    """
    try:
        store, name = stores.object_at(uri, conn_id)
        for ended in (rows_of(name), name) if is_batch else (name,):
            await store.remove(ended)
    except DeepshiError as err:
        log.warning("The job %s was not deleted: %s", uri, err)


async def load_outcome(uri: str, conn_id: str | None, stores: Stores) -> ImageOutcome:
    """Return the outcome in a manifest.

    :raises StorageFailed: the manifest is missing or cannot be read.
    """
    store, name = stores.object_at(uri, conn_id)
    return _parsed(uri, TypeAdapter(ImageOutcome), await _load(store, name, "manifest"))


async def store_job(job: Job | BatchJob, stores: Stores) -> str:
    """Store a job for the triggerer and return its URI."""
    store = stores.at(job.output_uri, job.output_conn_id)
    await store.write(job.job_name, job.model_dump_json().encode())
    return store.uri_of(job.job_name)


@functools.cache
def _any_job() -> TypeAdapter[Job | BatchJob]:
    """Return the type adapter; built on first use, since a task that does not defer never reads a job."""
    return TypeAdapter(Annotated[Job | BatchJob, Field(discriminator="kind")])


def _parsed(uri: str, kind: TypeAdapter[Parsed], data: bytes) -> Parsed:
    try:
        return kind.validate_json(data)
    except ValidationError as err:
        raise StorageFailed(f"{uri} cannot be read; clear the task to start again") from err


async def _load(store: Store, name: str, what: str) -> bytes:
    data = await store.read(name)
    if data is None:
        raise StorageFailed(f"The {what} {store.uri_of(name)} is gone; clear the task to start again")
    return data


async def _success(job: Job, context: JobContext, engine: Engine, purchase: Purchase) -> ImageOutcome:
    record, store = purchase.record, context.store
    reused = record.owner != job.owner
    differences = mismatches(engine.request, record.images, record.one_colour)
    warnings = added(record.warnings, differences)
    if reused:
        log.info("Nothing was sent: reused %s", record.images[0].uri)
        for warning in warnings:
            log.warning("%s", warning)
    tally = await context.latest_tally()
    if not record.owner.is_same_task(job.owner):
        tally.reused(record.model, record.cost_usd, len(record.images))
    uri = store.uri_of(job.manifest_name)
    prompt: str | None = engine.request.prompt
    purchased = record.purchased()
    if not context.keeps_prompts:  # the record may be of a time when prompts were kept
        prompt = None
        purchased["images"] = [image.model_copy(update={"revised_prompt": None}) for image in record.images]
    is_ours = record.owner.is_same_task(job.owner)
    images = sheet_images(purchase, prompt, reused=not is_ours, fallback=engine.fallback)
    sources = sheet_sources(engine.request.images) if isinstance(engine.request, EditRequest) else []
    costs = context.sheet(tally, images=images, sources=sources, manifest_uri=uri, warnings=sheet_warnings(warnings))
    this_try = {"cost_usd": Decimal(0), "sends": 0} if reused else {}
    error = _mismatch(differences, record, reused=reused) if differences and job.on_mismatch == "fail" else None
    outcome = ImageOutcome(
        status="failed" if error else "success",
        error=error.as_data() if error else None,
        operation=job.operation,
        prompt=prompt,
        **job.labels(),
        **{**purchased, "warnings": warnings, **this_try},
        reused=reused,
        fallback=engine.fallback,
        manifest_uri=uri,
        costs=costs,
        budget_warnings=context.account.warnings,
    )
    try:
        await store.patiently(lambda: store.write(job.manifest_name, outcome.model_dump_json().encode()))
    except StorageFailed as err:
        if reused:
            raise
        raise StorageFailed(
            f"{err.message}. The images were paid for and are in place; the next try reuses them",
            charged="yes",
            cost_usd=record.cost_usd,
            sends=record.sends,
        ) from err
    return outcome


def _mismatch(differences: list[str], record: Record, *, reused: bool) -> ResultMismatch:
    uris = ", ".join(image.uri for image in record.images)
    costs = {"charged": "no"} if reused else {"cost_usd": record.cost_usd, "sends": record.sends}
    return ResultMismatch(
        f"{'; '.join(differences)}. on_mismatch is fail. The images are stored, and every further try reuses them "
        f"({uris}). Change the request, or set reuse=False to buy them again",
        **costs,
    )


async def _failure(job: Job, context: JobContext, engine: Engine, err: DeepshiError) -> ImageOutcome:
    """Return the outcome of a failed job, with its error. Does not raise."""
    tally = await context.latest_tally()
    exposed = len(engine.exposed)
    message = _with_clock(_with_advice(err, job, context, engine), err, job)
    return ImageOutcome(
        status="failed",
        operation=job.operation,
        **job.labels(),
        model=engine.request.model,
        cost_usd=err.cost_usd,
        sends=err.sends,
        unknown_outcomes=len(unsettled(engine.exposed)),
        manifest_uri=context.store.uri_of(job.manifest_name),
        costs=context.sheet(tally),
        budget_warnings=context.account.warnings,
        error={**err.as_data(), "message": message},
        retry=engine.may_help_to_retry(err) and exposed <= job.max_resends,
    )


def _with_clock(message: str, err: DeepshiError, job: Job) -> str:
    """Return the message of an error about time, with a warning if the clocks differ."""
    about_time = isinstance(err, (TimedOut, OutcomeUnknown))
    return f"{message}. {job.clock_warning}" if about_time and job.clock_warning else message


def _with_advice(err: DeepshiError, job: Job, context: JobContext, engine: Engine) -> str:
    """Return the error's message with what the next try does about attempts that were or may have been paid for."""
    exposed = engine.exposed
    if err.charged == "no" or not exposed or isinstance(err, ResendsExhausted):
        return err.message
    if len(exposed) <= job.max_resends:
        return f"{err.message}. max_resends is {job.max_resends}: the next try sends it again"
    claims = ", ".join(context.journal.claim_uri(attempt) for attempt in unsettled(exposed))
    accept = f", or delete its claims first if you accept the loss: {claims}" if claims else ""
    return (
        f"{err.message}. max_resends is {job.max_resends}: it is not sent again. Raise max_resends and clear the task"
        f"{accept}"
    )
