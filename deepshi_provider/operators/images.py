"""Operators that generate and edit images, store them, and report what they cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import Context, ObjectStoragePath

from deepshi_provider.api.requests import REQUEST_FIELDS, EditRequest, GenerateRequest, build
from deepshi_provider.api.texts import is_blank
from deepshi_provider.batch.manifest import ManifestFormat
from deepshi_provider.costs.sheet import Operation
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.jobs.job import MismatchMode, PreflightMode
from deepshi_provider.jobs.plan import Plan
from deepshi_provider.journal.entries import Owner
from deepshi_provider.operators.flows import (
    BatchLimits,
    fill_with,
    plan_of,
    run_batch_task,
    run_single_task,
)
from deepshi_provider.operators.lifecycle import DEFERRABLE, ImageTask
from deepshi_provider.operators.notifications import Callbacks
from deepshi_provider.operators.rendered import FileUri, carried_columns, image_uris, input_images, rows_or_uri

if TYPE_CHECKING:
    from deepshi_provider.batch.columns import Columns
    from deepshi_provider.batch.row_table import RowTable

_TEMPLATED = (
    *REQUEST_FIELDS,
    *(
        "extra_params",
        "key",
        "metadata",
        "output_uri",
        "output_conn_id",
        "deepshi_conn_id",
        "max_run_cost_usd",
        "budget_group",
        "fallbacks",
    ),
)


class DeepshiGenerateImageOperator(ImageTask):
    """Generate images from a prompt, store them, and return where they are and what they cost.

    Fields of the request are templated; rendered text is converted to the field's type (``"1024"`` is a number), and
    ``None``, ``""`` and ``"None"`` are not sent. The sizing fields depend on the model: pixels (``width``, ``height``),
    ``aspect_ratio``, ``aspect_ratio`` with ``resolution``, or ``image_size``.

    :param prompt: text that describes the image.
    :param model: model id.
    :param n: number of images, 1 to 4.
    :param width: pixels.
    :param height: pixels.
    :param aspect_ratio: such as ``16:9``.
    :param resolution: ``1K``, ``2K`` or ``4K``; sets the price.
    :param image_size: preset, such as ``auto_2K``.
    :param quality: ``low``, ``medium`` or ``high``.
    :param output_format: ``png``, ``jpeg`` or ``webp``.
    :param seed: seed for reproducible results, if the model supports it.
    :param extra_params: fields that the API does not document, forwarded to the model.
    :param key: identifies the result for its readers: any JSON of at most 1,024 bytes, such as an id of yours. It is in
        the result, in asset events, in the cost sheet and on the page, and is not sent.
    :param metadata: further JSON of at most 1,024 bytes, used like ``key``.
    :param output_uri: directory for the images; by default the connection's, then ``/<dag>/<run>/<task>``.
    :param output_conn_id: connection of the object store; by default the Deepshi connection's ``output_conn_id``.
    :param deepshi_conn_id: connection of type ``deepshi``.
    :param reuse: use images that are already stored for the same request, at no cost; ``False`` buys new ones.
    :param max_resends: how often a request that may have been paid for is sent again; with 0 the task fails instead.
    :param max_run_cost_usd: the most that all image tasks of the DAG run may spend together, in USD; when it is spent,
        nothing is sent and the task fails. The connection needs an ``output_uri``.
    :param budget_group: a team, a DAG or a customer with budgets per day and month in the connection, which apply in
        addition to those of the whole connection.
    :param on_budget_warning: a callback like Airflow's own, such as a notifier, or a list of them. It is called at the
        end of the task that first finds a budget per day or month spent to the connection's ``warn_at``. The context
        has ``deepshi_budget``, a :class:`~deepshi_provider.costs.budget_state.WindowState`.
    :param preflight: check against the model catalog before paying: ``error`` refuses contradictions and warns of
        likely mistakes, ``warn`` only warns, ``off`` does not read the catalog.
    :param on_mismatch: what to do if images differ from the request in pixels, aspect ratio, format or number: ``warn``
        lists the differences in ``warnings``, ``fail`` also fails the task. The images are paid for and stored.
    :param fallbacks: fields that replace those of the request, such as ``[{"model": "flux-2-pro"}]``; sent in order
        after errors that were certainly free: the server failed, the rate limit lasts, or the model is not allowed.
    :param fallback_on_refusal: use fallbacks also if the content policy refused the request.
    :param generation_timeout: seconds for the request with its retries.
    :param stream: request Server-Sent Events; ``None`` does so only for a single image.
    :param deferrable: wait in the triggerer, without a worker slot.
    :returns: ``{"images": [{"uri", "index", "media_type", "width", "height", "size_bytes", "sha256",
        "revised_prompt"}], "model", "size", "created", "cost_usd", "usage", "sends", "unknown_outcomes", "reused",
        "fallback", "warnings", "manifest_uri", "map_index", "key", "metadata"}``; ``fallback`` is the position in
        ``fallbacks`` of what was sent instead, ``map_index`` is -1 if the task is not mapped. XCom ``cost_usd`` is
        what the task instance has cost over all its tries, in USD.
    """

    template_fields: Sequence[str] = _TEMPLATED
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "extra_params": "json",
        "metadata": "json",
        "fallbacks": "json",
    }
    ui_color = "#f3e8ff"

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the request in this process, or defer it to the triggerer."""
        return run_single_task(self, context, self._request)

    def plan(self, owner: Owner) -> Plan:
        """Return what the task would buy."""
        return plan_of(self, owner, BatchLimits(), fill_with(self._request))

    def _request(self) -> GenerateRequest:
        return build(GenerateRequest, self.request_fields())


class DeepshiEditImageOperator(DeepshiGenerateImageOperator):
    """Edit images by a prompt, store the result, and return where it is and what it cost.

    :param model: model id; by default ``deepshi-image-1``.
    :param images: the input images, 1 to 14 depending on the model: URIs, local paths, or the XCom of a generate or
        edit task, which stands for its images; one of them or a list.

    All other parameters are those of :class:`DeepshiGenerateImageOperator`.
    """

    operation: ClassVar[Operation] = "edit"
    template_fields: Sequence[str] = ("images", *_TEMPLATED)

    def __init__(
        self,
        *,
        images: Any,
        prompt: str,
        model: str | None = EditRequest.default_model,
        n: int | str = 1,
        width: int | str | None = None,
        height: int | str | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        image_size: str | None = None,
        quality: str | None = None,
        output_format: str | None = None,
        seed: int | str | None = None,
        extra_params: dict[str, Any] | str | None = None,
        key: Any = None,
        metadata: Any = None,
        output_uri: str | None = None,
        output_conn_id: str | None = None,
        deepshi_conn_id: str = DeepshiHook.default_conn_name,
        reuse: bool = True,
        max_resends: int = 1,
        max_run_cost_usd: float | str | None = None,
        budget_group: str | None = None,
        on_budget_warning: Callbacks = None,
        preflight: PreflightMode = "error",
        on_mismatch: MismatchMode = "warn",
        fallbacks: list[dict[str, Any]] | str | None = None,
        fallback_on_refusal: bool = False,
        generation_timeout: float = 600,
        stream: bool | None = None,
        deferrable: bool = DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            prompt=prompt,
            model=model,
            n=n,
            width=width,
            height=height,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            image_size=image_size,
            quality=quality,
            output_format=output_format,
            seed=seed,
            extra_params=extra_params,
            key=key,
            metadata=metadata,
            output_uri=output_uri,
            output_conn_id=output_conn_id,
            deepshi_conn_id=deepshi_conn_id,
            reuse=reuse,
            max_resends=max_resends,
            max_run_cost_usd=max_run_cost_usd,
            budget_group=budget_group,
            on_budget_warning=on_budget_warning,
            preflight=preflight,
            on_mismatch=on_mismatch,
            fallbacks=fallbacks,
            fallback_on_refusal=fallback_on_refusal,
            generation_timeout=generation_timeout,
            stream=stream,
            deferrable=deferrable,
            **kwargs,
        )
        self.images = images

    def _request(self) -> GenerateRequest:
        return build(EditRequest, {**self.request_fields(), "images": input_images(self.images)})

    def input_uris(self) -> list[str]:
        """Return the URIs of the input images."""
        return image_uris(self.images)


class DeepshiGenerateImagesOperator(ImageTask):
    """Generate or edit thousands of images in one task, and pay only for rows that changed.

    Rows are dictionaries with the fields of :class:`DeepshiGenerateImageOperator`, ``key`` (names the row's images; by
    default a hash of its fields) and ``images`` (makes the row an edit). The operator's own fields are defaults for all
    rows, and may be templates over the rows' columns: ``prompt="a {name} in {colour}"``, with ``{{`` and ``}}`` for
    braces; Jinja is rendered first. Rows whose images are already stored for the same request cost nothing: with an
    ``output_uri`` that all runs share, each run buys only rows that changed.

    :param requests: the rows, or the XCom of an upstream task that returns them: a list, a pandas frame, a file path,
        or an asset event with ``requests`` or ``requests_uri`` in its ``extra``. Also a polars frame, or any table with
        Arrow's C stream interface; Airflow's XComs carry these only with a custom backend. Jinja renders a list that is
        written in the DAG.
    :param requests_uri: alternatively, a JSONL, CSV or Parquet file of rows.
    :param requests_sql: alternatively, a query that returns the rows, or the name of a ``.sql`` file next to the DAG.
        It runs in the worker, with a server-side cursor if the driver has one. Needs the extra ``sql``.
    :param sql_conn_id: connection of the database.
    :param sql_parameters: values for the query's placeholders, in the driver's form.
    :param key_column: the column with each row's key, such as ``sku``; by default ``key``.
    :param carry: columns to copy to the manifest with their types: a list, or ``"*"`` for all that are not request
        fields. Changes in them buy nothing. A column that is neither a field, nor used by a template, nor carried is an
        error.
    :param model: default model of rows; by default ``deepshi-image-1`` for edits, ``deepshi-banana-pro`` for others.
    :param max_concurrency: maximum number of requests in flight.
    :param max_cost_usd: the most that the task instance may spend over all its tries, in USD; then it starts no further
        row, finishes requests in flight, and fails. Raise it and clear the task to continue.
    :param plan_only: make the plan (what would be bought, and its cost), push it as XCom ``deepshi_plan``, and buy
        nothing. A task with outlets is then skipped, so that its assets do not count as updated.
    :param start_over_budget: if the rows certainly cost more than is left of a limit, ``False`` buys none of them and
        fails, ``True`` buys as many as fit.
    :param on_error: if rows failed, ``fail`` fails the task after all rows are done, ``partial`` succeeds; the manifest
        lists the failed rows.
    :param max_failed: how many rows may fail before the task fails, regardless of ``on_error``: a number, or a share of
        the rows below 1, such as 0.05.
    :param manifest_format: ``jsonl``, or ``parquet`` (extra ``parquet``), which has column types.
    :param manifest_prompts: whether the manifest has the prompts, including the API's revised ones; it always has a
        hash.
    :returns: ``{"rows", "created", "reused", "failed", "skipped", "unknown_outcomes", "cost_usd", "manifest_uri",
        "warnings", "map_index", "key", "metadata"}``; the manifest has a line per row: ``key``, ``status``
        (``created``, ``reused``, ``failed``, ``skipped``), ``uri``, ``uris``, ``width``, ``height`` (pixels),
        ``sha256``, ``model``, ``prompt_hash``, ``cost_usd`` and more, and the carried columns. XCom ``cost_usd`` is
        what the task instance has cost over all its tries, in USD.

    All other parameters are those of :class:`DeepshiGenerateImageOperator`; ``generation_timeout`` is for each row.
    """

    operation: ClassVar[Operation] = "batch"
    template_fields: Sequence[str] = (
        *(
            "requests",
            "requests_uri",
            "requests_sql",
            "sql_conn_id",
            "sql_parameters",
            "key_column",
            "carry",
            "images",
            "max_cost_usd",
            "max_failed",
            "plan_only",
        ),
        *_TEMPLATED,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "requests": "json",
        "requests_sql": "sql",
        "sql_parameters": "json",
        "extra_params": "json",
        "metadata": "json",
        "fallbacks": "json",
    }
    file_fields: ClassVar[tuple[str, ...]] = ("prompt", "requests_sql")
    ui_color = "#f3e8ff"

    def __init__(
        self,
        *,
        requests: Any = None,
        requests_uri: str | None = None,
        requests_sql: str | None = None,
        sql_conn_id: str | None = None,
        sql_parameters: Any = None,
        key_column: str | None = None,
        carry: str | Sequence[str] | None = None,
        images: Any = None,
        max_concurrency: int = 8,
        max_cost_usd: float | str | None = None,
        plan_only: bool | str = False,
        start_over_budget: bool = False,
        on_error: Literal["fail", "partial"] = "fail",
        max_failed: float | str | None = None,
        manifest_format: ManifestFormat = "jsonl",
        manifest_prompts: bool = True,
        prompt: str | None = None,
        model: str | None = None,
        n: int | str = 1,
        width: int | str | None = None,
        height: int | str | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        image_size: str | None = None,
        quality: str | None = None,
        output_format: str | None = None,
        seed: int | str | None = None,
        extra_params: dict[str, Any] | str | None = None,
        key: Any = None,
        metadata: Any = None,
        output_uri: str | None = None,
        output_conn_id: str | None = None,
        deepshi_conn_id: str = DeepshiHook.default_conn_name,
        reuse: bool = True,
        max_resends: int = 1,
        max_run_cost_usd: float | str | None = None,
        budget_group: str | None = None,
        on_budget_warning: Callbacks = None,
        preflight: PreflightMode = "error",
        on_mismatch: MismatchMode = "warn",
        fallbacks: list[dict[str, Any]] | str | None = None,
        fallback_on_refusal: bool = False,
        generation_timeout: float = 600,
        stream: bool | None = None,
        deferrable: bool = DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            prompt=prompt,
            model=model,
            n=n,
            width=width,
            height=height,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            image_size=image_size,
            quality=quality,
            output_format=output_format,
            seed=seed,
            extra_params=extra_params,
            key=key,
            metadata=metadata,
            output_uri=output_uri,
            output_conn_id=output_conn_id,
            deepshi_conn_id=deepshi_conn_id,
            reuse=reuse,
            max_resends=max_resends,
            max_run_cost_usd=max_run_cost_usd,
            budget_group=budget_group,
            on_budget_warning=on_budget_warning,
            preflight=preflight,
            on_mismatch=on_mismatch,
            fallbacks=fallbacks,
            fallback_on_refusal=fallback_on_refusal,
            generation_timeout=generation_timeout,
            stream=stream,
            deferrable=deferrable,
            **kwargs,
        )
        self.requests = requests
        self.requests_uri = requests_uri
        self.requests_sql = requests_sql
        self.sql_conn_id = sql_conn_id
        self.sql_parameters = sql_parameters
        self.key_column = key_column
        self.carry = carry
        self.images = images
        self.max_concurrency = max_concurrency
        self.max_cost_usd = max_cost_usd
        self.plan_only = plan_only
        self.start_over_budget = start_over_budget
        self.on_error = on_error
        self.max_failed = max_failed
        self.manifest_format = manifest_format
        self.manifest_prompts = manifest_prompts

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the rows in this process, or defer to the triggerer; all rows are checked before anything is paid for."""
        return run_batch_task(self, context, self.limits(), self._fill)

    def plan(self, owner: Owner) -> Plan:
        """Return what the batch would buy."""
        return plan_of(self, owner, self.limits(), self._fill)

    def limits(self) -> BatchLimits:
        """Return the batch's limits and options."""
        return BatchLimits(
            max_concurrency=self.max_concurrency,
            max_cost_usd=self.max_cost_usd,
            plan_only=self.plan_only,
            start_over_budget=self.start_over_budget,
            on_error=self.on_error,
            max_failed=self.max_failed,
            manifest_format=self.manifest_format,
            manifest_prompts=self.manifest_prompts,
        )

    def input_uris(self) -> list[str]:
        """Return the URIs of the file of rows, and of input images in the operator's field or in a list of rows."""
        read = self.requests_uri if is_blank(self.requests) else rows_or_uri(self.requests)
        is_file = isinstance(read, os.PathLike | ObjectStoragePath | FileUri) or not is_blank(self.requests_uri)
        uris = [str(read)] if is_file else []
        uris += [uri for uri in image_uris(self.images, columns=True) if "{" not in uri]  # templates name no image
        rows = self.requests if isinstance(self.requests, list) else []
        return [*uris, *(uri for row in rows if isinstance(row, Mapping) for uri in image_uris(row.get("images")))]

    def defaults(self) -> dict[str, Any]:
        """Return the default fields of rows.

        :raises InvalidRequest: a field is invalid.
        """
        given = self.request_fields()
        fields = {name: value for name, value in given.items() if not is_blank(value)}
        if self.model is not None and "model" not in fields:
            fields["model"] = ""  # a template that rendered to nothing must fail, not choose the default model
        images = input_images(self.images, columns=True)
        return {**fields, "images": images} if images else fields

    def columns(self) -> Columns:
        """Return the meaning of columns that are not request fields.

        :raises InvalidRequest: ``carry`` is invalid.
        """
        from deepshi_provider.batch.columns import Columns

        key = None if is_blank(self.key_column) else str(self.key_column)
        return Columns(key=key, carry=carried_columns(self.carry))

    def _fill(self, rows: RowTable, output_conn_id: str | None) -> None:
        from deepshi_provider.operators.batch_rows import fill_rows

        fill_rows(self, rows, output_conn_id)
