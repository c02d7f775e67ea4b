"""Review of images by a person before the DAG continues, with Airflow's human-in-the-loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlencode

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowOptionalProviderFeatureException,
    AirflowSkipException,
)

from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.operators.candidates import Found
from deepshi_provider.operators.final import final_errors
from deepshi_provider.operators.outlets import add_asset_events
from deepshi_provider.operators.rendered import connection_id
from deepshi_provider.reports.review import XCOM_KEY, Review, as_markdown, label

try:
    from airflow.providers.standard.exceptions import HITLRejectException  # noqa: F401 -- 1.7 had no fail_on_reject
    from airflow.providers.standard.operators.hitl import ApprovalOperator
except (ImportError, AirflowOptionalProviderFeatureException) as err:
    raise AirflowOptionalProviderFeatureException(
        "DeepshiReviewOperator needs Airflow 3.1 or newer, with apache-airflow-providers-standard 1.8 or newer: "
        "its human-in-the-loop operators"
    ) from err

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Path of the images of a review, relative to Airflow's UI; served to users who may read the DAG's XComs.
_IMAGES = "deepshi-costs/thumbnail"


class DeepshiReviewOperator(ApprovalOperator):
    """Show images to a person, who chooses which to continue with, or rejects them all.

    Like all of Airflow's human-in-the-loop tasks, it waits without a worker, under "Required Actions" in the UI. There
    the images are shown with their prompts, models and costs. If there are several images, the person chooses any of
    them, ``Approve`` for all, or ``Reject``; if there is one, ``Approve`` or ``Reject``. After ``Reject`` the task
    succeeds, and its downstream tasks are skipped.

    :param images: the images to review: the result of a generate, edit or batch task, URIs, or a list of them. At
        most 50 are shown.
    :param subject: headline of the review.
    :param body: Markdown above the images.
    :param output_conn_id: connection of the images' object store; by default the Deepshi connection's
        ``output_conn_id``.
    :param deepshi_conn_id: connection of type ``deepshi``.
    :param defaults: ``Approve`` or ``Reject``, used if nobody answers within ``response_timeout``; without it the task
        fails.
    :param fail_on_reject: fail after ``Reject``.
    :returns: what a generate task returns, with the chosen images only, and ``rejected``, ``decision`` (``chosen`` or
        ``rejected``), ``respondent`` (``{"id", "name"}``, or ``None`` after a timeout), ``responded_at`` (ISO 8601)
        and ``params_input``. Nothing is sent, so ``cost_usd`` and ``sends`` are 0.
    :raises AirflowSkipException: there are no images.

    All other parameters are those of Airflow's ``ApprovalOperator``, such as ``assigned_users``, ``notifiers``,
    ``params`` and ``response_timeout``.
    """

    template_fields: Collection[str] = ("images", "subject", "body", "output_conn_id", "deepshi_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"images": "json", "body": "md"}
    ui_color = "#f3e8ff"

    def __init__(
        self,
        *,
        images: Any,
        subject: str = "Choose the images to continue with",
        output_conn_id: str | None = None,
        deepshi_conn_id: str = DeepshiHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(subject=subject, **kwargs)
        self.images = images
        self.output_conn_id = output_conn_id
        self.deepshi_conn_id = deepshi_conn_id

    def execute(self, context: Context) -> Any:
        """Show the images and wait for the person's answer."""
        conn_id, found = self._found()
        if not found.candidates:
            raise AirflowSkipException("There are no images to review")
        self._set_options(len(found.candidates))
        with final_errors():
            review = Review(images=found.as_stored(), output_conn_id=conn_id)
        self.body = "\n\n".join(filter(None, [self.body, self._shown(context, found, review)]))
        context["ti"].xcom_push(key=XCOM_KEY, value=review.as_xcom())
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the chosen images, and skip the downstream tasks if all were rejected."""
        if "error" in event:
            self.process_trigger_event_error(event)
        ti = context["ti"]
        seen = Review.model_validate(ti.xcom_pull(task_ids=ti.task_id, key=XCOM_KEY, map_indexes=ti.map_index))
        self._set_options(len(seen.images))
        chosen = self._chosen(event["chosen_options"], len(seen.images))
        _, found = self._found()
        if chosen:
            self._check_unchanged(found, seen, chosen)
        ti.xcom_push(key=XCOM_KEY, value=seen.decided(chosen).as_xcom())
        result = self._result(context, found, {n: seen.images[n].sha256 for n in chosen}, event)
        if not chosen:
            ti.xcom_push(key="return_value", value=result)  # Airflow ends the task when it skips downstream tasks
            if self.outlets and not self.fail_on_reject:
                raise AirflowSkipException(
                    "All images were rejected; skipped, since a success would trigger consumers of the outlets"
                )
        super().execute_complete(context, {**event, "chosen_options": [self.APPROVE if chosen else self.REJECT]})
        if self.outlets:
            sums = {"images": len(chosen), "cost_usd": 0.0, "manifest_uri": result["manifest_uri"]}
            labels = {name: result[name] for name in ("map_index", "key", "metadata")}
            add_asset_events(context, self.outlets, lambda: result["images"], sums, labels)
        return result

    def _found(self) -> tuple[str | None, Found]:
        """Return the connection id of the images' store, and the images."""
        with final_errors():
            conn_id = connection_id("output_conn_id", self.output_conn_id, None)
            if conn_id is None:
                conn_id = run_here(DeepshiHook(self.deepshi_conn_id).asettings()).output_conn_id
            return conn_id, Found(self.images, conn_id)

    def _check_unchanged(self, found: Found, seen: Review, chosen: Sequence[int]) -> None:
        with final_errors():
            if found.is_as_seen(seen.images, chosen):
                return
        raise AirflowException(
            "The images have changed since they were shown, so the choice does not apply to them. Clear the task "
            "to ask again"
        )

    def _set_options(self, images: int) -> None:
        """Set the options to choose from, in place of those of ``ApprovalOperator``."""
        self.multiple = images > 1
        self.options = [*(label(n) for n in range(images) if self.multiple), self.APPROVE, self.REJECT]

    def _shown(self, context: Context, found: Found, review: Review) -> str:
        ti = context["ti"]
        task = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}

        def address(position: int) -> str:
            # The hash, since browsers keep an image: after the task is cleared, this may be another one.
            query = {**task, "number": position, "review": "true", "sha256": review.images[position].sha256}
            return f"{_IMAGES}?{urlencode(query, quote_via=quote, safe='')}"

        count = len(found.candidates)
        how = (
            f"Choose any of the {count} images, or `{self.APPROVE}` for all of them, or `{self.REJECT}` for none."
            if self.multiple
            else ""
        )
        return "\n\n".join(filter(None, [how, as_markdown(found.candidates, address, found.more)]))

    def _chosen(self, options: Sequence[str], images: int) -> list[int]:
        """Return the positions of the chosen images; empty after ``Reject``.

        :raises AirflowException: the options contradict each other.
        """
        if set(options) == {self.APPROVE}:
            return list(range(images))
        if set(options) == {self.REJECT}:
            return []
        chosen = [n for n in range(images) if label(n) in options]
        if not chosen or len(chosen) < len(set(options)):
            raise AirflowException(
                f"{', '.join(options) or 'Nothing'} was chosen: choose images, or {self.APPROVE} or {self.REJECT} "
                "alone. Clear the task to ask again"
            )
        return chosen

    def _result(
        self, context: Context, found: Found, chosen: Mapping[int, str | None], event: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the task's result.

        :param chosen: hashes of the chosen images, by position.
        """
        images = [candidate.image for candidate in found.candidates]
        result = dict(found.results[0]) if len(found.results) == 1 else {}
        models = {candidate.model for candidate in found.candidates}
        empty = {"size": None, "created": None, "fallback": None, "manifest_uri": None, "key": None, "metadata": None}
        nothing_sent = {"cost_usd": 0.0, "usage": {}, "sends": 0, "unknown_outcomes": 0, "reused": True}
        return {
            **empty,
            "model": models.pop() if len(models) == 1 else None,
            "warnings": [],
            **result,
            **nothing_sent,
            "images": [{**images[n], "sha256": sha256} for n, sha256 in chosen.items()],
            "rejected": [image for n, image in enumerate(images) if n not in chosen],
            "decision": "chosen" if chosen else "rejected",
            "map_index": context["ti"].map_index,
            "respondent": event["responded_by_user"],
            "responded_at": event["responded_at"].isoformat(),
            "params_input": event["params_input"] or {},
        }
