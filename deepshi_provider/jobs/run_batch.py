"""Run a batch to its end, whatever the end is, and write down what became of each row."""

from __future__ import annotations

import json
import logging
from typing import Any, BinaryIO

from deepshi_provider.exceptions import BudgetExceeded, Charged, DeepshiError, RowsFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.hooks.pace import Pace
from deepshi_provider.jobs.batch import EMPTY_LINE, Batch
from deepshi_provider.jobs.index import Index
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.jobs.table import RowTable
from deepshi_provider.manifest import Summary, total
from deepshi_provider.storage import Store, in_thread

log = logging.getLogger(__name__)

#: Failed rows that a message names; the manifest names all.
_NAMED = 5


async def run_batch(job: BatchJob, rows: RowTable | None = None) -> Summary:
    """Carry out a batch and return how it ended; the manifest is stored in any case, if the store takes it.

    :param rows: the rows, if they are at hand; else they are read from where :func:`store_rows` put them.
    """
    store = Store(job.output_uri, job.output_conn_id)
    if rows is not None:
        return await _run(job, store, rows)
    with RowTable() as stored:
        try:
            with await store.open(job.rows_name) as file:
                await in_thread(stored.load_rows, file)
        except DeepshiError as err:
            return Summary(status="failed", rows=job.rows, error=err.as_data(), retry=err.retryable)
        return await _run(job, store, stored)


async def store_rows(job: BatchJob, rows: RowTable) -> None:
    """Write the rows where the triggerer finds them."""
    store = Store(job.output_uri, job.output_conn_id)
    await store.write_file(job.rows_name, rows.dump_rows, "application/jsonl")


async def images_of(manifest_uri: str, conn_id: str | None) -> list[dict[str, Any]]:
    """Return ``{"uri", "key", "model"}`` of each image that a stored manifest lists.

    :raises StorageFailed: it cannot be read.
    """
    folder, _, name = manifest_uri.rpartition("/")
    with await Store(folder, conn_id).open(name) as file:
        return await in_thread(_images, file)


def _images(file: BinaryIO) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in file)
    return [{"uri": uri, "key": line["key"], "model": line["model"]} for line in lines for uri in line["uris"]]


async def _run(job: BatchJob, store: Store, rows: RowTable) -> Summary:
    hook = DeepshiHook(job.deepshi_conn_id)
    index = Index(store)
    try:
        await index.open()
        async with hook.session(Pace()):
            batch = Batch(job, hook, store, rows, index)
            await batch.run()
        await store.patiently(
            lambda: store.write_file(
                job.table_name, lambda file: rows.dump_lines(file, EMPTY_LINE), "application/jsonl"
            )
        )
        await index.save()
        return _summary(job, store, batch)
    except DeepshiError as err:
        return Summary(status="failed", rows=job.rows, error=err.as_data(), retry=err.retryable)
    finally:
        index.close()


def _summary(job: BatchJob, store: Store, batch: Batch) -> Summary:
    counts = batch.progress.counts
    skipped = job.rows - counts.total()
    uri = store.uri_of(job.table_name)
    error = _error(job, batch, skipped, uri)
    return Summary(
        status="failed" if error else "success",
        rows=job.rows,
        created=counts["created"],
        reused=counts["reused"],
        failed=counts["failed"],
        skipped=skipped,
        unknown_outcomes=batch.unknown_outcomes,
        manifest_uri=uri,
        task_cost_usd=total(batch.costs),
        error=error.as_data() if error else None,
        retry=batch.error.retryable if batch.error else batch.may_retry,
    )


def _error(job: BatchJob, batch: Batch, skipped: int, uri: str) -> DeepshiError | None:
    """Return what the task is to fail with, if it is to."""
    left = f"{skipped} of {job.rows} rows were not started. Manifest: {uri}"
    if isinstance(batch.error, BudgetExceeded):
        return BudgetExceeded(f"{batch.error.message}. Raise max_cost_usd and clear the task to go on; {left}")
    if batch.error:
        data = batch.error.as_data()
        return DeepshiError.from_data({**data, "message": f"{data['message']}. {left}"})
    if not batch.failures or job.on_error == "partial":
        return None
    named = "; ".join(f"{key}: {type(error).__name__}" for key, error in batch.failures[:_NAMED])
    more = f" and {len(batch.failures) - _NAMED} more" if len(batch.failures) > _NAMED else ""
    charges = {error.charged for _, error in batch.failures}
    order: tuple[Charged, ...] = ("unknown", "yes", "no")
    worst = next(charged for charged in order if charged in charges)
    return RowsFailed(
        f"{len(batch.failures)} of {job.rows} rows failed ({named}{more}). Manifest: {uri}", charged=worst
    )
