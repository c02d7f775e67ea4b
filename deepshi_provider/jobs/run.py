"""Run a job to its end, whatever the end is, and write down how it went."""

from __future__ import annotations

import asyncio
import logging
import time
from decimal import Decimal
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from deepshi_provider.client.client import Client
from deepshi_provider.costs.sheet import AtLeast, CostSheet, paid, total
from deepshi_provider.exceptions import DeepshiError, OutcomeUnknown, ResendsExhausted, StorageFailed, TimedOut
from deepshi_provider.jobs.context import Tools
from deepshi_provider.jobs.engine import Engine
from deepshi_provider.jobs.job import BatchJob, Job
from deepshi_provider.journal.bill import Bill
from deepshi_provider.journal.entries import IMAGE, Manifest, Sending, since_purchase, unsettled
from deepshi_provider.journal.journal import Purchase, record_name
from deepshi_provider.journal.lease import TIMES, Times
from deepshi_provider.journal.sheets import add_up, make_sheet, sheet_images, told_sheet
from deepshi_provider.store.store import PATIENCE, Store
from deepshi_provider.store.stores import Stores

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")

_MANIFEST = TypeAdapter(Manifest)
_JOB: TypeAdapter[Job | BatchJob] = TypeAdapter(Annotated[Job | BatchJob, Field(discriminator="kind")])


async def run_single(
    job: Job,
    client: Client,
    stores: Stores,
    bill: Bill | None = None,
    *,
    patience: float = PATIENCE,
    times: Times = TIMES,
) -> Manifest:
    """Carry out a job and return how it ended; after a success the manifest is stored too.

    Blocking operators and triggers await this same coroutine. Cancelling it closes the connection and leaves the
    claim; images that were already paid for and received are stored first.

    :param client: of the account that pays.
    :param stores: opens the job's directory, and those of input images.
    :param bill: gets what this process knows by itself of the costs, if it is cancelled.
    :param patience: seconds for which a store that fails after payment is tried again.
    :param times: how long processes wait for each other.
    """
    store = stores.at(job.output_uri, job.output_conn_id, patience=patience)
    tools = Tools.of(job, client, stores, store, times=times)
    engine = Engine(tools, IMAGE, job.request, job.deadline)
    try:
        return await _ended(job, tools, engine)
    except (asyncio.CancelledError, Exception):  # the latter: a full disk, for one
        if bill is not None:
            bill.costs = _known_costs(job, engine)
        raise


async def _ended(job: Job, tools: Tools, engine: Engine) -> Manifest:
    try:
        async with tools.client.session(files=tools.store.files), tools.lease:
            purchase = await engine.run()
    except DeepshiError as err:
        return await _failure(job, tools, engine, err, is_recorded=bool(engine.ledger.written))
    try:
        return await _success(job, tools, purchase)
    except DeepshiError as err:
        return await _failure(job, tools, engine, err, is_recorded=True)


async def load_job(uri: str, conn_id: str | None, stores: Stores) -> Job | BatchJob:
    """Return a stored job, with its deadline by this machine's clock.

    The clocks of two machines are not compared: the store's clock shows how old the job is.

    :raises StorageFailed: it cannot be read, or is not there.
    """
    store, name = stores.object_at(uri, conn_id)
    job = _parsed(uri, _JOB, await _load(store, name, "job"))
    if isinstance(job, BatchJob):
        return job  # each of its requests has a time of its own
    try:
        job = job.arrived(await store.age(name), time.time())
    except StorageFailed as err:
        log.warning("The job's deadline is taken by this machine's clock: %s", err)
    if job.clock_warning:
        log.warning("%s", job.clock_warning)
    return job


async def load_manifest(uri: str, conn_id: str | None, stores: Stores) -> Manifest:
    """Return a stored manifest.

    :raises StorageFailed: it cannot be read, or is not there.
    """
    store, name = stores.object_at(uri, conn_id)
    return _parsed(uri, _MANIFEST, await _load(store, name, "manifest"))


async def store_job(job: Job | BatchJob, stores: Stores) -> str:
    """Write a job where the triggerer finds it, and return its URI."""
    store = stores.at(job.output_uri, job.output_conn_id)
    await store.write(job.job_name, job.model_dump_json().encode())
    return store.uri_of(job.job_name)


def _parsed(uri: str, kind: TypeAdapter[Parsed], data: bytes) -> Parsed:
    try:
        return kind.validate_json(data)
    except ValidationError as err:
        raise StorageFailed(f"{uri} cannot be read; clear the task to start it anew") from err


async def _load(store: Store, name: str, what: str) -> bytes:
    data = await store.read(name)
    if data is None:
        raise StorageFailed(f"The {what} {store.uri_of(name)} is gone; clear the task to start it anew")
    return data


async def _success(job: Job, tools: Tools, purchase: Purchase) -> Manifest:
    record = purchase.record
    reused = record.owner != job.owner
    if reused:
        log.info("Nothing was sent: reused %s", record.images[0].uri)
        for warning in record.warnings:
            log.warning("%s", warning)
    try:
        return await _written(job, tools, purchase, reused=reused)
    except StorageFailed as err:
        if reused:
            raise
        raise StorageFailed(
            f"{err.message}. The images were paid for and are in place; the next try finds them",
            charged="yes",
            cost_usd=record.cost_usd,
            sends=record.sends,
        ) from err


async def _written(job: Job, tools: Tools, purchase: Purchase, *, reused: bool) -> Manifest:
    store, record = tools.store, purchase.record
    costs = await _costs(job, tools, purchase)
    manifest = Manifest(
        status="success",
        operation=job.operation,
        owner=job.owner,
        key=job.key,
        metadata=job.metadata,
        images=record.images,
        model=record.model,
        size=record.size,
        created=record.created,
        cost_usd=Decimal(0) if reused else record.cost_usd,
        usage=record.usage,
        sends=0 if reused else record.sends,
        unknown_outcomes=record.unknown_outcomes,
        reused=reused,
        warnings=record.warnings,
        manifest_uri=store.uri_of(job.manifest_name),
        task_cost_usd=costs.cost_usd,
        costs=costs,
    )
    await store.patiently(lambda: store.write(job.manifest_name, manifest.model_dump_json().encode()))
    return manifest


async def _costs(job: Job, tools: Tools, purchase: Purchase) -> CostSheet:
    """Return the sheet after a success."""
    store, record = tools.store, purchase.record
    at_hand = {record_name(IMAGE, purchase.k, record): record}.get
    tally = await store.patiently(lambda: add_up(store, job.owner, IMAGE, at_hand, prices=tools.prices))
    if not record.owner.is_same_task(job.owner):
        tally.reused(record.model, record.cost_usd, len(record.images))
    return make_sheet(
        job.owner,
        job.operation,
        job.output_uri,
        job.output_conn_id,
        ended=True,
        images=sheet_images(record.images),
        manifest_uri=store.uri_of(job.manifest_name),
        **tally.sums(),
    )


async def _failure(job: Job, tools: Tools, engine: Engine, err: DeepshiError, *, is_recorded: bool) -> Manifest:
    """Return what is known after a failure; the error itself is part of it, and nothing more can fail.

    :param is_recorded: whether what the error tells of costs is in the records too.
    """
    exposed: list[Sending] = []
    model = job.request.model
    costs = None
    spent = _known_without_store(job, engine, err)
    try:
        sendings = await engine.ledger.sendings()
        exposed = since_purchase(sendings, engine.fingerprint) if engine.fingerprint else []
        costs = await _costs_so_far(job, tools)
        if err.cost_usd and not is_recorded:  # the failing store did not take it
            costs = costs.with_unrecorded(model, paid(err) or Decimal(0))
        spent = costs.cost_usd
    except DeepshiError as again:
        log.warning("What the task has cost so far cannot be read: %s", again)
        costs = _known_costs(job, engine).model_copy(update={"cost_usd": spent})
    # Whatever the directory shows, and if it shows nothing: what this process has sent, it has sent.
    unknown = max(engine.unknown, len(unsettled(exposed)))
    at_risk = max(engine.exposed, len(exposed))
    return Manifest(
        status="failed",
        operation=job.operation,
        owner=job.owner,
        key=job.key,
        metadata=job.metadata,
        model=model,
        cost_usd=err.cost_usd,
        sends=err.sends,
        unknown_outcomes=unknown,
        manifest_uri=tools.store.uri_of(job.manifest_name),
        task_cost_usd=spent,
        costs=costs,
        error={**err.as_data(), "message": _with_clock(_with_advice(err, job, engine, exposed, at_risk), err, job)},
        retry=err.retryable and at_risk <= job.max_resends,
    )


async def _costs_so_far(job: Job, tools: Tools) -> CostSheet:
    """Return the sheet after a failure; what was reused does not show in it."""
    tally = await add_up(tools.store, job.owner, IMAGE, prices=tools.prices)
    return make_sheet(job.owner, job.operation, job.output_uri, job.output_conn_id, ended=True, **tally.sums())


def _known_costs(job: Job, engine: Engine) -> CostSheet:
    """Return the sheet as far as this process knows by itself."""
    sheet = make_sheet(job.owner, job.operation, job.output_uri, job.output_conn_id, ended=True)
    spent = total([_spent_before(job, engine), *engine.paid])
    return told_sheet(
        sheet,
        spent,
        engine.unknown,
        job.request.model,
        untold=sum(cost is None or isinstance(cost, AtLeast) for cost in engine.paid),
    )


def _spent_before(job: Job, engine: Engine) -> Decimal | None:
    if engine.spent is None and job.owner.try_number == 1:
        return Decimal(0)
    return engine.spent


def _known_without_store(job: Job, engine: Engine, err: DeepshiError) -> Decimal | None:
    """Return what the task instance has paid, in USD, as far as this process knows by itself."""
    before = _spent_before(job, engine)
    if err.charged == "no":
        return before
    return total([before, err.cost_usd])


def _with_clock(message: str, err: DeepshiError, job: Job) -> str:
    """Return the message of an error that is about time with what is to be said of the clock."""
    about_time = isinstance(err, (TimedOut, OutcomeUnknown))
    return f"{message}. {job.clock_warning}" if about_time and job.clock_warning else message


def _with_advice(err: DeepshiError, job: Job, engine: Engine, exposed: list[Sending], at_risk: int) -> str:
    """Return the error's message with what the next try will do about money that may be lost.

    :param at_risk: how many attempts may have cost money without an image; ``exposed`` are those that could be listed.
    """
    if err.charged == "no" or not at_risk or isinstance(err, ResendsExhausted):
        return err.message
    if at_risk <= job.max_resends:
        return f"{err.message}. max_resends is {job.max_resends}: the next try sends it once more"
    claims = ", ".join(engine.ledger.claim_uri(sending) for sending in unsettled(exposed))
    accept = f", or first delete its claims to say that you accept the loss: {claims}" if claims else ""
    return (
        f"{err.message}. max_resends is {job.max_resends}: it is not sent again. Raise max_resends and clear the task"
        f"{accept}"
    )
