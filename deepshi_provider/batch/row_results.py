"""Results of the rows of a batch: lines of the manifest, and counts for the outcome."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

from deepshi_provider.api.postcheck import added, mismatches
from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.batch.manifest import EMPTY_LINE, asked, int64, prompt_hash
from deepshi_provider.batch.progress import Progress
from deepshi_provider.batch.row_table import Row, RowTable
from deepshi_provider.costs.sheet import LONGEST_WARNING, MOST_IMAGES, SheetImage
from deepshi_provider.exceptions import Charged, DeepshiError, ResultMismatch
from deepshi_provider.jobs.context import JobContext
from deepshi_provider.jobs.job import BatchJob
from deepshi_provider.journal.entries import Record
from deepshi_provider.journal.journal import Purchase
from deepshi_provider.journal.sheets import NameCosts, sheet_images

log = logging.getLogger(__name__)

#: Maximum number of failed rows in a message; the manifest lists all.
NAMED = 5
#: Maximum number of failed rows logged as warnings; thousands often have the same cause.
LOGGED = 20


class RowResults:
    """Collects the results of rows as they finish.

    :ivar images: images of the first rows, in order, for the cost sheet.
    :ivar reused: number and cost of reused images, by model.
    :ivar named: the first failed rows with their errors.
    :ivar charges: ``charged`` of the failed rows.
    :ivar warnings: mismatches of the first rows that have any.
    :ivar may_retry: whether another try may help one of the failed rows.
    """

    def __init__(self, rows: RowTable, context: JobContext) -> None:
        job = context.job
        assert isinstance(job, BatchJob)  # noqa: S101 -- the context of a batch
        self._rows = rows
        self._owner = job.owner
        self._with_prompts = job.manifest_prompts
        self._keeps_prompts = context.keeps_prompts
        self._account = context.account
        self._progress = Progress(job.rows)
        self.counts = self._progress.counts
        self.reused: dict[str | None, tuple[int, Decimal]] = {}
        self._first: dict[int, list[SheetImage]] = {}
        self.named: list[str] = []
        self.charges: set[Charged] = set()
        self.may_retry = False
        self.warnings: list[str] = []
        self._on_mismatch = job.on_mismatch

    @property
    def images(self) -> list[SheetImage]:  # noqa: D102 -- described above
        return [image for number in sorted(self._first) for image in self._first[number]][:MOST_IMAGES]

    def done(
        self,
        row: Row,
        request: GenerateRequest,
        purchase: Purchase,
        costs: NameCosts,
        seconds: float | None,
        fallback: int | None = None,
    ) -> None:
        """Add a row whose images are stored.

        :param request: the request that made the images: the row's own, or one of its fallbacks.
        :param seconds: the row's duration; ``None`` if its images were already stored.
        :param fallback: position of the fallback, from 0; ``None`` for the row's own request.
        """
        record = purchase.record
        own = record.owner.is_same_task(self._owner)
        differences = self._differences(row, request, record)
        is_refused = bool(differences) and self._on_mismatch == "fail"
        status = "failed" if is_refused else "created" if own else "reused"
        charged: Charged = "yes" if costs.paid else "no"
        self._note(row, request, purchase, own=own, fallback=fallback)
        if is_refused:
            self._failed(row, ResultMismatch.__name__, charged)
        image = record.images[0]
        line = {
            "uri": image.uri,
            "uris": [image.uri for image in record.images],
            "media_type": image.media_type,
            "width": image.width,
            "height": image.height,
            "size_bytes": image.size_bytes,
            "sha256": image.sha256,
            "model": record.model,
            "fallback": fallback,
            "revised_prompt": image.revised_prompt if self._with_prompts else None,
            "tokens_in": int64(record.usage.get("prompt_tokens")),
            "tokens_out": int64(record.usage.get("completion_tokens")),
            "error": ResultMismatch.__name__ if is_refused else None,
            "charged": charged,
            "warnings": added(record.warnings, differences),
        }
        if fallback is not None:
            line = {**asked(request.model_dump(exclude_none=True), with_prompt=self._with_prompts), **line}
        self._put(row, status, costs, seconds or 0.0, line)
        self._progress.add(status, self._account.spending, sent=own and seconds is not None)

    def failed(
        self,
        row: Row,
        error: DeepshiError,
        costs: NameCosts,
        seconds: float,
        *,
        charged: Charged,
        may_retry: bool,
    ) -> None:
        """Add a row that failed.

        :param charged: for all the row's attempts in this try; the error is that of the last one.
        :param may_retry: whether another try may help the row.
        """
        self.may_retry |= may_retry
        self._failed(row, type(error).__name__, charged)
        line = {"error": error.code or type(error).__name__, "charged": charged}
        self._put(row, "failed", costs, seconds, line)
        level = logging.WARNING if self.counts["failed"] < LOGGED else logging.DEBUG
        log.log(level, "Row %s failed: %s: %s", row.key, type(error).__name__, error)
        self._progress.add("failed", self._account.spending, sent=True)

    def log_progress(self) -> None:
        """Log the progress."""
        self._progress.log(self._account.spending)

    def _failed(self, row: Row, error: str, charged: Charged) -> None:
        self.charges.add(charged)
        if len(self.named) < NAMED:
            self.named.append(f"{row.key[:100]}: {error}")

    def _differences(self, row: Row, request: GenerateRequest, record: Record) -> list[str]:
        """Return the mismatches of a row; the log and the outcome list those of the first rows, the manifest all."""
        found = mismatches(request, record.images, record.one_colour)
        for image in record.images:
            other = self._rows.twin(image.sha256, prompt_hash(request.prompt), row.key)
            if other is not None:
                found.append(
                    f"Image {image.index} is byte for byte the same as one of row {other[:100]}, whose prompt differs"
                )
        if found and len(self.warnings) < NAMED:
            self.warnings.append(f"{row.key[:100]}: {'; '.join(found)}"[:LONGEST_WARNING])
            log.warning("Row %s", self.warnings[-1])
        return found

    def _note(self, row: Row, request: GenerateRequest, purchase: Purchase, *, own: bool, fallback: int | None) -> None:
        """Add a row's images to those of the cost sheet."""
        record = purchase.record
        if not own:
            count, saved = self.reused.get(record.model, (0, Decimal(0)))
            self.reused[record.model] = count + len(record.images), saved + (record.cost_usd or Decimal(0))
        prompt = request.prompt if self._keeps_prompts else None
        self._first[row.number] = sheet_images(purchase, prompt, key=row.key, reused=not own, fallback=fallback)
        if len(self._first) > MOST_IMAGES:
            del self._first[max(self._first)]

    def _put(self, row: Row, status: str, costs: NameCosts, seconds: float, line: dict[str, Any]) -> None:
        """Store a line of the manifest; every line has all columns, so that readers find one schema."""
        common = {
            "key": row.key,
            "status": status,
            "cost_usd": costs.cost_usd,
            "may_have_cost_usd": costs.may_have_cost_usd,
            "attempts": costs.paid + costs.lost,
            "seconds": round(seconds, 3),
        }
        what = asked(row.fields, with_prompt=self._with_prompts)
        self._rows.put(row, {**EMPTY_LINE, **what, **common, **line})
