"""Run a batch to its end, whatever the end is, and write down what became of each row."""

from __future__ import annotations

import json
import logging
from decimal import Decimal
from typing import Any, BinaryIO

from deepshi_provider.exceptions import BudgetExceeded, Charged, DeepshiError, RowsFailed, StorageFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.pace import Pace
from deepshi_provider.jobs.batch import Batch
from deepshi_provider.jobs.budget import Bill
from deepshi_provider.jobs.index import Index
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.report import EMPTY_LINE, NAMED
from deepshi_provider.jobs.table import RowTable
from deepshi_provider.manifest import Owner, Summary, total
from deepshi_provider.storage import PATIENCE, Store, in_thread

log = logging.getLogger(__name__)


async def run_batch(
    job: BatchJob, rows: RowTable | None = None, bill: Bill | None = None, *, patience: float = PATIENCE
) -> Summary:
    """Carry out a batch and return how it ended; the manifest is stored in any case, if the store takes it.

    Cancelling it closes all connections and leaves their claims; images that were already paid for and received are
    stored first.

    :param rows: the rows, if they are at hand; else they are read from where :func:`store_rows` put them.
    :param bill: to see what was paid also if the batch is cancelled.
    :param patience: seconds for which a store that fails after payment is tried again.
    """
    store = Store(job.output_uri, job.output_conn_id, patience=patience)
    bill = bill or Bill()
    if rows is not None:
        return await _run(job, store, rows, bill)
    with RowTable() as stored:
        try:
            await store.process(job.rows_name, stored.load_rows)
        except DeepshiError as err:
            return Summary(status="failed", rows=job.rows, error=err.as_data(), retry=err.retryable)
        return await _run(job, store, stored, bill)


async def store_rows(job: BatchJob, rows: RowTable) -> None:
    """Write the rows where the triggerer finds them."""
    store = Store(job.output_uri, job.output_conn_id)
    await store.write_file(job.rows_name, rows.dump_rows, "application/jsonl")


async def images_of(manifest_uri: str, conn_id: str | None) -> list[dict[str, Any]]:
    """Return ``{"uri", "key", "model"}`` of each image that a stored manifest lists.

    :raises StorageFailed: it cannot be read.
    """
    folder, _, name = manifest_uri.rpartition("/")
    return await Store(folder, conn_id).process(name, _images)


def _images(file: BinaryIO) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in file)
    return [{"uri": uri, "key": line["key"], "model": line["model"]} for line in lines for uri in line["uris"]]


async def batch_spent(output_uri: str, conn_id: str | None, owner: Owner) -> Decimal | None:
    """Return what a task instance has paid so far, in USD; ``None`` if its store cannot be read."""
    index = Index(Store(output_uri, conn_id))
    try:
        await index.open()
        return total(index.costs_of(owner))
    except DeepshiError as err:
        log.warning("What the task has cost so far cannot be read: %s", err)
        return None
    finally:
        index.close()


async def _run(job: BatchJob, store: Store, rows: RowTable, bill: Bill) -> Summary:
    hook = DeepshiHook(job.deepshi_conn_id)
    index = Index(store)
    batch: Batch | None = None
    try:
        await index.open()
        bill.begin(await in_thread(index.costs_of, job.owner))
        async with hook.session(Pace()):
            batch = Batch(job, hook, store, rows, index, bill)
            await batch.run()
        await _write_down(job, store, rows, index, batch.error)
        return _summary(job, store, batch, bill, _error(job, batch, store.uri_of(job.table_name)))
    except DeepshiError as err:
        if batch:  # the manifest could not be stored; what was paid is told all the same
            return _summary(job, store, batch, bill, batch.error or err)
        return Summary(status="failed", rows=job.rows, task_cost_usd=bill.usd, error=err.as_data(), retry=err.retryable)
    finally:
        index.close()


async def _write_down(job: BatchJob, store: Store, rows: RowTable, index: Index, error: DeepshiError | None) -> None:
    """Store the manifest, patiently unless the store has failed already, and the index."""

    async def write() -> None:
        await store.write_file(job.table_name, lambda file: rows.dump_lines(file, EMPTY_LINE), "application/jsonl")

    await (write() if isinstance(error, StorageFailed) else store.patiently(write))
    try:
        await index.save()
    except StorageFailed as err:
        log.warning("The index was not written, so the next run reads each new record by itself: %s", err)


def _summary(job: BatchJob, store: Store, batch: Batch, bill: Bill, error: DeepshiError | None) -> Summary:
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
        error=error.as_data() if error else None,
        retry=retry,
    )


def _error(job: BatchJob, batch: Batch, uri: str) -> DeepshiError | None:
    """Return what the task is to fail with, if it is to."""
    counts = batch.report.counts
    left = f"{job.rows - counts.total()} of {job.rows} rows were not started. Manifest: {uri}"
    if isinstance(batch.error, BudgetExceeded):
        return BudgetExceeded(f"{batch.error.message}. Raise max_cost_usd and clear the task to go on; {left}")
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
