"""A job: everything that any process needs to run a task's requests."""

from __future__ import annotations

import socket
import time
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from deepshi_provider.api.requests import EditRequest, GenerateRequest, build
from deepshi_provider.costs.money import Usd
from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.jobs.outcome import BatchOutcome, ImageOutcome, failure
from deepshi_provider.journal.entries import Owner, Record
from deepshi_provider.store.store import STATE

#: Seconds by which two clocks may differ without a warning.
_SKEW = 10.0
#: Ending of the name of a stored job.
_JOB = ".job.json"

PreflightMode = Literal["error", "warn", "off"]
MismatchMode = Literal["warn", "fail"]


class Terms(BaseModel):
    """Owner, output directory and limits that requests and batches have in common. Contains no API key.

    :param key: JSON that identifies the result for its readers; likewise ``metadata``. Neither is sent.
    :param output_uri: directory for the images.
    :param is_shared: whether the user chose the directory, so that other tasks of the run may use it too.
    :param max_resends: how often a request that may have been paid for may be sent again.
    :param on_mismatch: what to do if images differ from what was requested; they are stored in any case.
    :param fallbacks: fields that replace those of a request, in order, after errors that were certainly free.
    :param fallback_on_refusal: whether to use fallbacks also after a refusal by the content policy.
    :param stream: request Server-Sent Events; ``None`` does so only for requests of a single image.
    :param max_cost_usd: the most that the task instance may spend over all its tries, in USD.
    :param max_run_cost_usd: the most that all tasks of the DAG run may spend together, in USD.
    :param budget_group: the group whose daily and monthly budgets apply in addition to those of the connection.
    :param runs_uri: directory in which tasks share their spending: the connection's ``output_uri``.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    owner: Owner
    key: Any = None
    metadata: Any = None
    output_uri: str
    output_conn_id: str | None = None
    is_shared: bool = False
    deepshi_conn_id: str
    reuse: bool = True
    max_resends: Annotated[int, Field(ge=0)] = 1
    preflight: PreflightMode = "error"
    on_mismatch: MismatchMode = "warn"
    fallbacks: list[dict[str, Any]] = []
    fallback_on_refusal: bool = False
    stream: bool | None = None
    max_cost_usd: Usd | None = None
    max_run_cost_usd: Usd | None = None
    budget_group: str | None = None
    runs_uri: str | None = None
    runs_conn_id: str | None = None

    def labels(self) -> dict[str, Any]:
        """Return the fields that distinguish this task's result from those of other mapped tasks."""
        return {"map_index": self.owner.map_index, "key": self.key, "metadata": self.metadata}

    def may_use(self, record: Record) -> bool:
        """Return whether the job may use stored images: always if they are of this same try, which may run twice."""
        return self.reuse or record.owner == self.owner

    @property
    def keeps_prompts(self) -> bool:
        """Whether records and cost sheets may hold the job's prompts."""
        return True

    @property
    def job_name(self) -> str:
        """The name of the stored job in its output directory."""
        return f"{STATE}/{self.owner.task_key}-{self.owner.try_number}{_JOB}"

    @property
    def manifest_name(self) -> str:
        """The name of this try's manifest in the output directory."""
        return f"{STATE}/{self.owner.task_key}-{self.owner.try_number}.manifest.json"


class Job(Terms):
    """One request of one try: everything that any process needs to run it.

    :param fields: the request's fields, with the API's names.
    :param deadline: unix seconds at which the job gives up, by the clock of the machine that runs it.
    :param made_at: unix seconds, by the clock of the machine that made the job.
    :param clock_skew: seconds by which the clock of the machine that runs the job is ahead of that one.
    """

    kind: Literal["single"] = "single"
    operation: Literal["generate", "edit"]
    fields: dict[str, Any]
    deadline: float
    made_at: float = Field(default_factory=time.time)
    clock_skew: float = 0.0

    def arrived(self, age: float, now: float) -> Job:
        """Return the job with its deadline moved to this machine's clock.

        :param age: the job's age in seconds, by the store's clock.
        :param now: unix seconds, by this machine's clock.
        """
        skew = now - age - self.made_at
        return self.model_copy(update={"deadline": self.deadline + skew, "clock_skew": skew})

    @property
    def clock_warning(self) -> str | None:
        """A warning if the clocks of the two machines differ; ``None`` if they do not."""
        if abs(self.clock_skew) < _SKEW:
            return None
        word = "ahead of" if self.clock_skew > 0 else "behind"
        return (
            f"The clock of {socket.gethostname()} is {abs(self.clock_skew):.0f} s {word} that of the task's worker; "
            "the deadline is kept by the store's clock"
        )

    @property
    def generation_timeout(self) -> float:
        """Seconds from the making of the job to its deadline."""
        return self.deadline - self.clock_skew - self.made_at

    def deadline_from(self, now: float) -> float:
        """Return the deadline of a request that starts now, in unix seconds: the job's own."""
        return self.deadline

    def failed(self, err: DeepshiError) -> ImageOutcome:
        """Return the outcome if the job could not start."""
        return ImageOutcome(operation=self.operation, **self.labels(), **failure(err))

    @property
    def request(self) -> GenerateRequest:
        """The request, validated again."""
        return build(EditRequest if self.operation == "edit" else GenerateRequest, self.fields)


class BatchJob(Terms):
    """The requests of a batch in one try; the rows are stored in a file of their own.

    :param rows: number of rows.
    :param generation_timeout: seconds for each row's request with its retries.
    :param max_concurrency: maximum number of requests in flight.
    :param plan_only: make the plan and buy nothing.
    :param start_over_budget: buy the rows that fit, even if the whole batch certainly exceeds a limit.
    :param on_error: whether the job fails if rows failed.
    :param max_failed: number of rows, or share below 1, that may fail without the job failing; ``None`` leaves the
        decision to ``on_error``.
    :param manifest_format: format of the manifest, the file with one line per row.
    :param manifest_prompts: whether the manifest holds the prompts; if not, records and cost sheets do not either.
    """

    kind: Literal["batch"] = "batch"
    operation: Literal["batch"] = "batch"
    rows: int
    generation_timeout: float
    max_concurrency: Annotated[int, Field(ge=1)]
    plan_only: bool = False
    start_over_budget: bool = False
    on_error: Literal["fail", "partial"] = "fail"
    max_failed: Annotated[Decimal, Field(ge=0)] | None = None
    manifest_format: Literal["jsonl", "parquet"] = "jsonl"
    manifest_prompts: bool = True

    @property
    def keeps_prompts(self) -> bool:
        """Whether records and cost sheets may hold its prompts."""
        return self.manifest_prompts

    def tolerates(self, failed: int) -> bool:
        """Return whether the job succeeds with this number of failed rows."""
        if self.max_failed is None:
            return failed == 0 or self.on_error == "partial"
        return failed <= (self.max_failed * self.rows if self.max_failed < 1 else self.max_failed)

    def deadline_from(self, now: float) -> float:
        """Return the deadline of a request that starts now, in unix seconds: each row has its own."""
        return now + self.generation_timeout

    def failed(self, err: DeepshiError) -> BatchOutcome:
        """Return the outcome if the job could not start."""
        return BatchOutcome(rows=self.rows, **self.labels(), **failure(err))

    @property
    def rows_name(self) -> str:
        """The name of the file of rows in the output directory."""
        return rows_of(self.job_name)

    @property
    def table_name(self) -> str:
        """The name of the manifest with one line per row; the same for all tries."""
        return f"manifest-{self.owner.task_key}.{self.manifest_format}"


def rows_of(job_name: str) -> str:
    """Return the name of the rows of a stored batch."""
    return job_name.removesuffix(_JOB) + ".rows.jsonl"
