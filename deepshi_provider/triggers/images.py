"""Runs a job in the triggerer, so that a long generation holds no worker slot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

from deepshi_provider.api.texts import storable
from deepshi_provider.exceptions import DeepshiError, OutcomeUnknown
from deepshi_provider.hooks.batch_jobs import run_batch_job
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.hooks.jobs import run_job
from deepshi_provider.hooks.metrics import use_airflow_metrics
from deepshi_provider.jobs.job import BatchJob, Job
from deepshi_provider.jobs.outcome import ImageOutcome, Outcome, failure
from deepshi_provider.jobs.run import load_job

#: Seconds that Airflow may take to notice the end of the process that deferred. It fails a task that is queued again
#: earlier: "finished with state success, but the task instance's state attribute is queued".
_SEEN_LATE = conf.getint("workers", "min_heartbeat_interval", fallback=5)
#: Seconds that the supervisor and the scheduler may take besides; the supervisor first uploads the task's logs.
_MARGIN = 5.0 if conf.getboolean("logging", "remote_logging", fallback=False) else 1.0
#: Seconds from the trigger's start to its earliest event.
EARLIEST_EVENT = _SEEN_LATE + _MARGIN if _SEEN_LATE else 0.0


class DeepshiImagesTrigger(BaseTrigger):
    """Runs a stored job, with the same coroutine that a blocking operator awaits.

    Airflow's database stores the arguments in plain text, so they hold neither the prompt nor the key. If the
    triggerer is stopped or killed, the next one runs the job from the start: it finds earlier attempts and stored
    images in the object store.

    :param job_uri: URI of the stored job.
    :param storage_conn_id: connection of the object store.
    :param deepshi_conn_id: connection of type ``deepshi``.
    :param deadline: unix seconds at which the job gives up, before Airflow's own timeout of the deferral; ``None`` if
        each request of the job has its own deadline.
    """

    def __init__(
        self, *, job_uri: str, storage_conn_id: str | None, deepshi_conn_id: str, deadline: float | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow 3.3 does not annotate it
        self.job_uri = job_uri
        self.storage_conn_id = storage_conn_id
        self.deepshi_conn_id = deepshi_conn_id
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "job_uri": self.job_uri,
            "storage_conn_id": self.storage_conn_id,
            "deepshi_conn_id": self.deepshi_conn_id,
            "deadline": self.deadline,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: the URI of the manifest, or an error as data; and where the job is, for its deletion.

        A cancellation is passed on: it closes the connection and leaves the claim.
        """
        earliest = time.monotonic() + EARLIEST_EVENT
        use_airflow_metrics(in_trigger=True)
        try:
            job = await load_job(self.job_uri, self.storage_conn_id, STORES)
        except DeepshiError as err:
            outcome: Outcome = ImageOutcome(**failure(err))
        else:
            outcome = await self._outcome_of(job)
        event = outcome.as_event(self.storage_conn_id)
        event |= {"job_uri": self.job_uri, "job_conn_id": self.storage_conn_id}
        if event["status"] == "failed":
            self.log.error("%s", DeepshiError.from_data(event["error"]))
        await asyncio.sleep(max(0.0, earliest - time.monotonic()))
        yield TriggerEvent(storable(event))  # type: ignore[no-untyped-call] # likewise

    async def _outcome_of(self, job: Job | BatchJob) -> Outcome:
        try:
            return await run_batch_job(job) if isinstance(job, BatchJob) else await run_job(job)
        except DeepshiError as err:  # before anything was sent: the connection or the job is invalid
            return job.failed(err)
        except Exception as err:  # from a library, or a full disk: without an event, the costs would not be reported
            self.log.exception("The job failed unexpectedly")
            message = f"Unexpected error ({type(err).__name__}: {str(err)[:200]})"
            return job.failed(OutcomeUnknown(f"{message}; what was sent may have been paid for"))
