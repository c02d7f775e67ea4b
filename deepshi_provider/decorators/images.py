"""``@task.deepshi_image``: makes an image task from a function that returns the prompt or the request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import (
    AirflowTaskTimeout,
    DecoratedOperator,
    TaskDecorator,
    context_merge,
    task_decorator_factory,
)
from airflow.sdk import Context

from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.batch.cells import as_json
from deepshi_provider.batch.rows import check_row, request_of, used_columns
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.jobs.plan import Plan
from deepshi_provider.journal.entries import Owner
from deepshi_provider.operators.batch_rows import with_input_images
from deepshi_provider.operators.flows import fill_with, run_batch_task, run_single_task
from deepshi_provider.operators.images import DeepshiGenerateImagesOperator
from deepshi_provider.operators.lifecycle import owner_of
from deepshi_provider.operators.rendered import dictionary, flag, rows_or_uri

try:  # Not from common.compat, which has it only since 1.14.1, and Airflow 3.1.8's constraints have an older one.
    from airflow.sdk.bases.decorator import determine_kwargs
except ImportError:  # before Airflow 3.2
    from airflow.utils.operator_helpers import determine_kwargs  # type: ignore[attr-defined,unused-ignore]


class DeepshiImageDecoratedOperator(DecoratedOperator, DeepshiGenerateImagesOperator):
    """Calls a function and makes the images that it returns a request for.

    The function returns a prompt, a dictionary of fields (an edit if it has ``images``), or, for a batch, a list of
    such dictionaries. The decorator takes the arguments of
    :class:`~deepshi_provider.operators.images.DeepshiGenerateImagesOperator`; they are defaults for fields that the
    function does not return.

    :param python_callable: the function.
    :param op_args: its positional arguments, templated.
    :param op_kwargs: its keyword arguments, templated.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *DeepshiGenerateImagesOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **DeepshiGenerateImagesOperator.template_fields_renderers,
    }
    custom_operator_name: str = "@task.deepshi_image"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        """Call the function, then run the request or batch that it returned."""
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        owner = owner_of(context)
        try:
            asked = self.python_callable(*self.op_args, **kwargs)
        except (Exception, AirflowTaskTimeout):  # whatever the user's function raises
            self.push_earlier_costs(context, owner)
            raise
        with self.failing(context, owner):
            is_plan = flag("plan_only", self.plan_only)
            if asked is None:
                raise InvalidRequest(f"{self.task_id}: the function returned None instead of a prompt or a request")
        if isinstance(asked, str | Mapping) and rows_or_uri(asked) is asked:
            if is_plan:
                return run_batch_task(self, context, self.limits(), fill_with(lambda: self._request(asked)))
            return run_single_task(self, context, lambda: self._request(asked))
        self.requests = asked
        result: dict[str, Any] = super().execute(context)
        return result

    def plan(self, owner: Owner) -> Plan:
        """Raise an error: the request is known only when the task runs its function.

        :raises InvalidRequest: always.
        """
        raise InvalidRequest("A dry run does not call the function; use plan_only=True")

    def _request(self, asked: str | Mapping[str, Any]) -> GenerateRequest:
        """Return the request, checked like a row of a batch: unknown fields are refused before anything is paid for."""
        row = {"prompt": asked} if isinstance(asked, str) else dict(with_input_images(asked))
        columns = self.columns()
        self.key = row.get(columns.key or "key", self.key)
        if columns.key is None:
            row.pop("key", None)
        self.metadata = row.pop("metadata", self.metadata)
        columns.warn_of_typing_errors(row.keys(), used_columns(self.defaults()))
        checked = check_row(row, self.defaults(), self.stream, columns)
        columns.check_carry(row.keys())
        if checked.carried:
            self.metadata = {**dictionary("metadata", self.metadata), **as_json(checked.carried)}
        return request_of(checked.fields)


def deepshi_image_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a task from a function that returns a prompt or a request; see :class:`DeepshiImageDecoratedOperator`.

    :param python_callable: the function.
    :param multiple_outputs: as for every task decorator.
    """
    # The function's return annotation describes the request, not the task's result. Otherwise ``-> dict`` would make
    # Airflow push the ``cost_usd`` of the result in place of that of all tries.
    kwargs.setdefault("multiple_outputs", False)
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=DeepshiImageDecoratedOperator, **kwargs
    )
