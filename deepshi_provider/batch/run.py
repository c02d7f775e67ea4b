"""Runs a batch to its end and writes the manifest."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.batch.batch import Batch
from deepshi_provider.batch.kept_pace import KeptPace
from deepshi_provider.batch.manifest_file import MEDIA_TYPES, images_in, write_manifest
from deepshi_provider.batch.parquet import check_installed
from deepshi_provider.batch.row_results import NAMED
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.rows import request_of
from deepshi_provider.client.client import Client
from deepshi_provider.client.pace import Pace
from deepshi_provider.client.telemetry import of_task
from deepshi_provider.costs.sheet import CostSheet
from deepshi_provider.costs.tally import Tally
from deepshi_provider.exceptions import BudgetExceeded, Charged, DeepshiError, RowsFailed, StorageFailed
from deepshi_provider.jobs.context import JobContext
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.outcome import BatchOutcome
from deepshi_provider.jobs.own_output import refuse_circles
from deepshi_provider.journal.directory import DirectoryJournal
from deepshi_provider.journal.lease import TIMES, Times
from deepshi_provider.journal.sheets import sheet_warnings
from deepshi_provider.store.store import PATIENCE, in_thread
from deepshi_provider.store.stores import Stores

log = logging.getLogger(__name__)


async def run_batch(
    job: BatchJob,
    client: Client,
    stores: Stores,
    rows: RowTable | None = None,
    *,
    interrupted: Callable[[CostSheet], None] | None = None,
    patience: float = PATIENCE,
    times: Times = TIMES,
) -> BatchOutcome:
    """Run a batch and return its outcome; store the manifest in any case, unless the store fails.

    Cancelling it closes all connections and leaves their claims; images that have already arrived are stored first.

    :param client: the client of the account that pays.
    :param stores: opens the job's directory, and those of input images.
    :param rows: the rows, if already loaded; otherwise they are read from the file that :func:`store_rows` wrote.
    :param interrupted: called with the costs that this process knows, if it is cancelled or fails unexpectedly.
    :param patience: seconds to keep trying a store that fails after payment.
    :param times: how long processes wait for each other.
    """
    store = stores.at(job.output_uri, job.output_conn_id, patience=patience)
    with DirectoryJournal(store) as journal, contextlib.ExitStack() as stack:
        context = JobContext.of(job, client, stores, store, journal, times=times, image_log_level=logging.DEBUG)
        if rows is None:
            rows = stack.enter_context(RowTable())
            try:
                await store.process(job.rows_name, rows.load_rows)
            except DeepshiError as err:
                return _failure(job, context, None, err)
        async with context.lease, context.turn:
            return await _run(job, context, journal, rows, interrupted)


async def store_rows(job: BatchJob, rows: RowTable, stores: Stores) -> None:
    """Store the rows for the triggerer."""
    store = stores.at(job.output_uri, job.output_conn_id)
    await store.write_file(job.rows_name, rows.dump_rows, "application/jsonl")


async def images_of(manifest_uri: str, conn_id: str | None, stores: Stores) -> list[dict[str, Any]]:
    """Return ``{"uri", "key", "model", "warnings"}`` of each image of the rows that did not fail, from the manifest.

    :raises StorageFailed: the manifest cannot be read.
    """
    store, name = stores.object_at(manifest_uri, conn_id)
    return await store.process(name, functools.partial(images_in, name))


def _edits(rows: RowTable) -> Iterator[tuple[str, GenerateRequest]]:
    return ((row.name, request_of(row.fields)) for row in rows.edits())


async def _run(
    job: BatchJob,
    context: JobContext,
    journal: DirectoryJournal,
    rows: RowTable,
    interrupted: Callable[[CostSheet], None] | None,
) -> BatchOutcome:
    batch: Batch | None = None
    try:
        if job.manifest_format == "parquet":
            await in_thread(check_installed)
        await in_thread(lambda: refuse_circles(_edits(rows), context.store.location))
        if context.needs_turn:
            await context.turn.take()
        await journal.open()
        pace = KeptPace(context.store, Pace()) if job.plan_only else await KeptPace.recall(context.store)
        async with context.client.session(pace.pace, context.store.files):
            batch = Batch(job, context, journal, rows, pace)
            await batch.prepare()
            if not job.plan_only:
                with of_task(job.owner.attributes):
                    await batch.run()
        if not job.plan_only:
            await _write_down(job, context, journal, rows, batch.error)
        tally = await context.latest_tally()
        if not job.plan_only:
            await context.account.recount(tally, await context.recent_tally())
        costs = _sheet(context, batch, tally, manifest_uri=_manifest_uri(job, context))
        return _outcome(job, context, batch, costs)
    except DeepshiError as err:
        return _failure(job, context, batch, err)
    except (asyncio.CancelledError, Exception):  # cancelled, or an unexpected error such as a full disk
        if interrupted is not None and journal.is_listed:  # else the costs of earlier tries are not known here
            interrupted(_sheet(context, batch, context.known_tally(), ended=False))
        raise


async def _write_down(
    job: BatchJob, context: JobContext, journal: DirectoryJournal, rows: RowTable, error: DeepshiError | None
) -> None:
    """Store the manifest and the index; keep trying, unless the store has already failed."""
    has_failed = isinstance(error, StorageFailed)
    fill = functools.partial(write_manifest, job, rows)
    await context.store.write_file(job.table_name, fill, MEDIA_TYPES[job.manifest_format], patiently=not has_failed)
    try:
        await journal.save_index()
    except StorageFailed as err:
        log.warning("The index was not written, so the next run reads the new records one by one: %s", err)


def _sheet(context: JobContext, batch: Batch | None, tally: Tally, *, ended: bool = True, **more: Any) -> CostSheet:
    for model, (count, saved) in (batch.results.reused if batch else {}).items():
        tally.reused(model, saved, count)
    return context.sheet(
        tally,
        ended=ended,
        images=batch.results.images if batch else [],
        plan=batch.plan.summary() if batch and batch.plan else None,
        warnings=sheet_warnings(batch.results.warnings if batch else []),
        **more,
    )


def _failure(job: BatchJob, context: JobContext, batch: Batch | None, err: DeepshiError) -> BatchOutcome:
    """Return the outcome of a batch that did not start, or whose manifest could not be stored."""
    if batch is None:
        return job.failed(err)
    costs = _sheet(context, batch, context.known_tally())
    batch.error = batch.error or err
    return _outcome(job, context, batch, costs)


def _outcome(job: BatchJob, context: JobContext, batch: Batch, costs: CostSheet) -> BatchOutcome:
    uri = _manifest_uri(job, context)
    error = _error(job, batch, uri)
    counts = batch.results.counts
    retry = batch.results.may_retry if isinstance(error, RowsFailed) else error is not None and error.retryable
    return BatchOutcome(
        status="failed" if error else "success",
        **job.labels(),
        rows=job.rows,
        created=counts["created"],
        reused=counts["reused"],
        failed=counts["failed"],
        skipped=job.rows - counts.total(),
        warnings=batch.results.warnings,
        plan=batch.plan,
        unknown_outcomes=costs.unknown_outcomes,
        manifest_uri=uri,
        costs=costs,
        budget_warnings=context.account.warnings,
        error=error.as_data() if error else None,
        retry=retry,
    )


def _manifest_uri(job: BatchJob, context: JobContext) -> str | None:
    """Return the manifest's URI; ``None`` for a plan, which has no manifest."""
    return None if job.plan_only else context.store.uri_of(job.table_name)


def _error(job: BatchJob, batch: Batch, uri: str | None) -> DeepshiError | None:
    """Return the error that the task fails with, or ``None``."""
    counts = batch.results.counts
    left = f"{job.rows - counts.total()} of {job.rows} rows were not started. Manifest: {uri}"
    if isinstance(batch.error, BudgetExceeded):
        return BudgetExceeded(f"{batch.error.message}; {left}")
    if batch.error:
        data = batch.error.as_data()
        return DeepshiError.from_data({**data, "message": f"{data['message']}. {left}"})
    if job.tolerates(counts["failed"]):
        return None
    more = f" and {counts['failed'] - NAMED} more" if counts["failed"] > NAMED else ""
    order: tuple[Charged, ...] = ("unknown", "yes", "no")
    worst = next(charged for charged in order if charged in batch.results.charges)
    return RowsFailed(
        f"{counts['failed']} of {job.rows} rows failed ({'; '.join(batch.results.named)}{more}). Manifest: {uri}",
        charged=worst,
    )
