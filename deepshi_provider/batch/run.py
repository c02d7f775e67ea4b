"""Run a batch to its end, whatever the end is, and write down what became of each row."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.batch.batch import Batch
from deepshi_provider.batch.row_results import EMPTY_LINE, NAMED
from deepshi_provider.batch.row_table import RowTable
from deepshi_provider.batch.rows import request_of
from deepshi_provider.client.client import Client
from deepshi_provider.client.pace import Pace
from deepshi_provider.costs.sheet import CostSheet, Tally
from deepshi_provider.exceptions import BudgetExceeded, Charged, DeepshiError, RowsFailed, StorageFailed
from deepshi_provider.jobs.context import Tools
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.own_output import refuse_circles
from deepshi_provider.journal.bill import Bill
from deepshi_provider.journal.entries import Summary
from deepshi_provider.journal.index import Index
from deepshi_provider.journal.sheets import add_up, book, make_sheet
from deepshi_provider.store.store import PATIENCE, Store, in_thread
from deepshi_provider.store.stores import Stores

log = logging.getLogger(__name__)


async def run_batch(
    job: BatchJob,
    client: Client,
    stores: Stores,
    rows: RowTable | None = None,
    bill: Bill | None = None,
    *,
    patience: float = PATIENCE,
) -> Summary:
    """Carry out a batch and return how it ended; the manifest is stored in any case, if the store takes it.

    Cancelling it closes all connections and leaves their claims; images that were already paid for and received are
    stored first.

    :param client: of the account that pays.
    :param stores: opens the job's directory, and those of input images.
    :param rows: the rows, if they are at hand; else they are read from where :func:`store_rows` put them.
    :param bill: to see what was paid also if the batch is cancelled.
    :param patience: seconds for which a store that fails after payment is tried again.
    """
    labels = {"map_index": job.owner.map_index, "key": job.key, "metadata": job.metadata}
    store = stores.at(job.output_uri, job.output_conn_id, patience=patience)
    tools = Tools.of(job, client, stores, store, image_log_level=logging.DEBUG)
    ended = await _run_rows(job, tools, rows, bill or Bill())
    return ended.model_copy(update=labels)


async def _run_rows(job: BatchJob, tools: Tools, rows: RowTable | None, bill: Bill) -> Summary:
    if rows is not None:
        return await _run(job, tools, rows, bill)
    with RowTable() as stored:
        try:
            await tools.store.process(job.rows_name, stored.load_rows)
        except DeepshiError as err:
            return Summary(status="failed", rows=job.rows, error=err.as_data(), retry=err.retryable)
        return await _run(job, tools, stored, bill)


async def store_rows(job: BatchJob, rows: RowTable, stores: Stores) -> None:
    """Write the rows where the triggerer finds them."""
    store = stores.at(job.output_uri, job.output_conn_id)
    await store.write_file(job.rows_name, rows.dump_rows, "application/jsonl")


async def images_of(manifest_uri: str, conn_id: str | None, stores: Stores) -> list[dict[str, Any]]:
    """Return ``{"uri", "key", "model"}`` of each image that a stored manifest lists.

    :raises StorageFailed: it cannot be read.
    """
    store, name = stores.object_at(manifest_uri, conn_id)
    return await store.process(name, _images)


def _images(file: BinaryIO) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in file)
    return [{"uri": uri, "key": line["key"], "model": line["model"]} for line in lines for uri in line["uris"]]


def _edits(rows: RowTable) -> Iterator[tuple[str, GenerateRequest]]:
    return ((row.name, request_of(row.fields)) for row in rows.edits())


async def _run(job: BatchJob, tools: Tools, rows: RowTable, bill: Bill) -> Summary:
    store, client = tools.store, tools.client
    index = Index(store)
    batch: Batch | None = None
    try:
        await in_thread(lambda: refuse_circles(_edits(rows), store.location))
        await index.open()
        bill.begin(await in_thread(index.costs_of, job.owner))
        async with client.session(Pace(), store.files):
            batch = Batch(job, tools, rows, index, bill)
            await batch.run()
        await _write_down(job, store, rows, index, batch.error)
        costs = await _costs(job, store, batch, index, bill)
        await batch.correct_run_costs(costs.cost_usd)
        return _summary(job, store, batch, bill, _error(job, batch, store.uri_of(job.table_name)), costs)
    except DeepshiError as err:
        if batch:  # the manifest could not be stored; what was paid is told all the same
            costs = _told(job, store, batch, index, bill).model_copy(update={"ended": True, "manifest_uri": None})
            return _summary(job, store, batch, bill, batch.error or err, costs)
        return Summary(status="failed", rows=job.rows, task_cost_usd=bill.usd, error=err.as_data(), retry=err.retryable)
    except (asyncio.CancelledError, Exception):  # the latter: a full disk, for one
        bill.costs = _told(job, store, batch, index, bill)
        raise
    finally:
        index.close()


async def _write_down(job: BatchJob, store: Store, rows: RowTable, index: Index, error: DeepshiError | None) -> None:
    """Store the manifest, patiently unless the store has failed already, and the index."""
    has_failed = isinstance(error, StorageFailed)
    fill = functools.partial(rows.dump_lines, unfinished=EMPTY_LINE)
    await store.write_file(job.table_name, fill, "application/jsonl", patiently=not has_failed)
    try:
        await index.save()
    except StorageFailed as err:
        log.warning("The index was not written, so the next run reads each new record by itself: %s", err)


async def _costs(job: BatchJob, store: Store, batch: Batch, index: Index, bill: Bill) -> CostSheet:
    """Return the cost sheet; a store that fails now fails no task."""
    try:
        tally = await add_up(store, job.owner, cached=index.cached, prices=batch.prices)
    except StorageFailed as err:
        log.warning("The cost sheet is made without the store: %s", err)
        costs = _told(job, store, batch, index, bill)
        return costs.model_copy(update={"ended": True, "manifest_uri": store.uri_of(job.table_name)})
    return _sheet(job, store, batch, bill, tally, ended=True)


def _told(job: BatchJob, store: Store, batch: Batch | None, index: Index, bill: Bill) -> CostSheet:
    """Return what is known without the store; claims of earlier tries are not in it."""
    tally = Tally()
    book(tally, job.owner, index.records_of(job.owner))
    sheet = _sheet(job, store, batch, bill, tally, ended=False)
    if not batch or not batch.report.unknown_outcomes:
        return sheet
    return sheet.model_copy(update={"unknown_outcomes": batch.report.unknown_outcomes, "may_have_cost_usd": None})


def _sheet(job: BatchJob, store: Store, batch: Batch | None, bill: Bill, tally: Tally, *, ended: bool) -> CostSheet:
    for model, (count, saved) in (batch.report.reused if batch else {}).items():
        tally.reused(model, saved, count)
    sheet = make_sheet(
        job.owner,
        "batch",
        job.output_uri,
        job.output_conn_id,
        ended=ended,
        images=batch.report.images if batch else [],
        manifest_uri=store.uri_of(job.table_name) if ended else None,
        **tally.sums(),
    )
    for model, cost in bill.unrecorded:
        sheet = sheet.with_unrecorded(model, cost)
    return sheet


def _summary(
    job: BatchJob, store: Store, batch: Batch, bill: Bill, error: DeepshiError | None, costs: CostSheet
) -> Summary:
    counts = batch.report.counts
    retry = batch.report.may_retry if isinstance(error, RowsFailed) else error is not None and error.retryable
    return Summary(
        status="failed" if error else "success",
        rows=job.rows,
        created=counts["created"],
        reused=counts["reused"],
        failed=counts["failed"],
        skipped=job.rows - counts.total(),
        unknown_outcomes=batch.report.unknown_outcomes,
        manifest_uri=store.uri_of(job.table_name),
        task_cost_usd=bill.usd,
        costs=costs,
        error=error.as_data() if error else None,
        retry=retry,
    )


def _error(job: BatchJob, batch: Batch, uri: str) -> DeepshiError | None:
    """Return what the task is to fail with, if it is to."""
    counts = batch.report.counts
    left = f"{job.rows - counts.total()} of {job.rows} rows were not started. Manifest: {uri}"
    if isinstance(batch.error, BudgetExceeded):
        return BudgetExceeded(f"{batch.error.message}; {left}")
    if batch.error:
        data = batch.error.as_data()
        return DeepshiError.from_data({**data, "message": f"{data['message']}. {left}"})
    if not counts["failed"] or job.on_error == "partial":
        return None
    more = f" and {counts['failed'] - NAMED} more" if counts["failed"] > NAMED else ""
    order: tuple[Charged, ...] = ("unknown", "yes", "no")
    worst = next(charged for charged in order if charged in batch.report.charges)
    return RowsFailed(
        f"{counts['failed']} of {job.rows} rows failed ({'; '.join(batch.report.named)}{more}). Manifest: {uri}",
        charged=worst,
    )
