"""A job: all that is needed to carry out a task's requests, in whichever process."""

from __future__ import annotations

import socket
import time
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from deepshi_provider.api.requests import EditRequest, GenerateRequest, build
from deepshi_provider.costs.money import Usd
from deepshi_provider.journal.entries import Owner
from deepshi_provider.store.store import STATE

#: Seconds by which two clocks may differ without a word.
_SKEW = 10.0

PreflightMode = Literal["error", "warn", "off"]
MismatchMode = Literal["warn", "fail"]


class Terms(BaseModel):
    """For whom images are made, where they go, and what may be paid for them. Holds no key.

    :param key: JSON that names the result for who reads it; likewise ``metadata``. Neither is sent.
    :param output_uri: directory for the images.
    :param is_shared: whether the user named it, so that other tasks of the run may have it too.
    :param max_resends: how often a request may be sent again that may have been paid for already.
    :param on_mismatch: what to make of images that are not as they were asked for; they are stored either way.
    :param fallbacks: fields that replace those of a request, in order, after errors that were surely free.
    :param fallback_on_refusal: whether a refusal by the content policy is such an error.
    :param stream: ask for Server-Sent Events; ``None`` does so for requests of one picture.
    :param max_cost_usd: most that the task instance may spend, over all its tries.
    :param max_run_cost_usd: most that all tasks of the DAG run may spend together.
    :param budget_group: whose budgets over time count besides those of the whole connection.
    :param runs_uri: where tasks share what they have spent: the connection's ``output_uri``.
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

    @property
    def keeps_prompts(self) -> bool:
        """Whether records and cost sheets may hold its prompts."""
        return True

    @property
    def job_name(self) -> str:
        """Where the job is stored, inside its output directory."""
        return f"{STATE}/{self.owner.task_key}-{self.owner.try_number}.job.json"

    @property
    def manifest_name(self) -> str:
        """Where the manifest of this try is stored, inside its output directory."""
        return f"{STATE}/{self.owner.task_key}-{self.owner.try_number}.manifest.json"


class Job(Terms):
    """One request of one task try: all that is needed to carry it out, in whichever process.

    :param fields: the request's fields, under the API's names.
    :param deadline: unix seconds, by the clock of the machine that carries it out; nothing is waited for beyond it.
    :param made_at: unix seconds, by the clock of the machine that made it.
    :param clock_skew: seconds that the clock of the machine that carries it out is ahead of the other one.
    """

    kind: Literal["single"] = "single"
    operation: Literal["generate", "edit"]
    fields: dict[str, Any]
    deadline: float
    made_at: float = Field(default_factory=time.time)
    clock_skew: float = 0.0

    def arrived(self, age: float, now: float) -> Job:
        """Return the job for another machine, whose clock may be wrong.

        :param age: seconds since it was made, by a clock that both machines share.
        :param now: unix seconds, by the other machine's clock.
        """
        skew = now - age - self.made_at
        return self.model_copy(update={"deadline": self.deadline + skew, "clock_skew": skew})

    @property
    def clock_warning(self) -> str | None:
        """A warning about the clock of the machine that carries it out; ``None`` if it is right."""
        if abs(self.clock_skew) < _SKEW:
            return None
        word = "ahead of" if self.clock_skew > 0 else "behind"
        return (
            f"The clock of {socket.gethostname()} is {abs(self.clock_skew):.0f} s {word} that of the task's worker; "
            "the deadline is kept by the store's clock"
        )

    def deadline_from(self, now: float) -> float:
        """Return when a request that starts now gives up, in unix seconds: the job's own deadline."""
        return self.deadline

    @property
    def request(self) -> GenerateRequest:
        """The request, checked again."""
        return build(EditRequest if self.operation == "edit" else GenerateRequest, self.fields)


class BatchJob(Terms):
    """Many requests of one task try; the rows lie beside it.

    :param rows: how many.
    :param generation_timeout: seconds for each row's request with its retries.
    :param max_concurrency: most requests in flight.
    :param plan_only: whether to find out what would be bought, and buy nothing.
    :param start_over_budget: whether to buy what fits, if the whole is surely over a limit.
    :param on_error: what to make of failed rows in the end.
    :param max_failed: how many may have failed without the job failing: a number, or a share below 1; ``None`` leaves
        it to ``on_error``.
    :param manifest_format: of the file with one line per row.
    :param manifest_prompts: whether it holds the prompts; if not, records and cost sheets do not either.
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
        """Return whether the job succeeds although so many rows have failed."""
        if self.max_failed is None:
            return failed == 0 or self.on_error == "partial"
        return failed <= (self.max_failed * self.rows if self.max_failed < 1 else self.max_failed)

    def deadline_from(self, now: float) -> float:
        """Return when a request that starts now gives up, in unix seconds: each row has its own time."""
        return now + self.generation_timeout

    @property
    def rows_name(self) -> str:
        """Where the rows are stored, inside the output directory."""
        return f"{STATE}/{self.owner.task_key}-{self.owner.try_number}.rows.jsonl"

    @property
    def table_name(self) -> str:
        """Where the manifest's lines are, one per row; the same for all tries."""
        return f"manifest-{self.owner.task_key}.{self.manifest_format}"
