"""A job: all that is needed to carry out a task's request, in whichever process."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deepshi_provider.api.requests import EditRequest, GenerateRequest, build
from deepshi_provider.manifest import Owner
from deepshi_provider.storage import STATE

#: What the images, records and claims of a single request are called.
IMAGE = "image"

PreflightMode = Literal["warn", "error", "off"]


class Job(BaseModel):
    """One request of one task try, with where its images go and what may be paid for it. Holds no key.

    :param fields: the request's fields, under the API's names.
    :param output_uri: directory for the images.
    :param max_resends: how often a request may be sent again that may have been paid for already.
    :param deadline: unix seconds; nothing is waited for beyond it.
    """

    model_config = ConfigDict(frozen=True)

    operation: Literal["generate", "edit"]
    fields: dict[str, Any]
    owner: Owner
    output_uri: str
    output_conn_id: str | None = None
    deepshi_conn_id: str
    reuse: bool = True
    max_resends: int = 1
    preflight: PreflightMode = "warn"
    deadline: float

    @property
    def request(self) -> GenerateRequest:
        """The request, checked again."""
        return build(EditRequest if self.operation == "edit" else GenerateRequest, self.fields)

    @property
    def job_name(self) -> str:
        """Where the job is stored, inside its output directory."""
        return f"{STATE}/{self.owner.task_key}-{self.owner.try_number}.job.json"

    @property
    def manifest_name(self) -> str:
        """Where its manifest is stored, inside its output directory."""
        return f"{STATE}/{self.owner.task_key}-{self.owner.try_number}.manifest.json"

    def remaining(self) -> float:
        """Return the seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - time.time())
