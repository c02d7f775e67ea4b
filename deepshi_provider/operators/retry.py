"""A retry policy (Airflow 3.3 and later) that starts the next try when the server's ``Retry-After`` has passed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.blocking import run_here

try:
    from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
except ImportError:  # Airflow 3.1 and 3.2: its own delay
    RETRY_AFTER = None
else:

    class RetryAfterPolicy(RetryPolicy):
        """Delays the next try by ``Retry-After`` if that is longer than the hook's own longest wait.

        All other errors, and shorter waits, use the task's ``retry_delay``. ``retries`` of the task decides whether
        there is another try.
        """

        def evaluate(
            self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
        ) -> RetryDecision:
            """Return the decision about one failure; called by Airflow in the worker."""
            asked = exception.retry_after if isinstance(exception, DeepshiError) else None
            if asked is None or context is None or asked <= run_here(context["task"].hook.asettings()).max_retry_wait:
                return RetryDecision.default()
            wait = timedelta(seconds=min(asked, LONGEST_WAIT))
            return RetryDecision.retry(delay=wait, reason=f"Deepshi asks to wait {wait.total_seconds():g} s")

        def serialize(self) -> dict[str, Any]:
            """Return the policy for a serialized DAG."""
            return {"__type": "RetryAfterPolicy"}

        @classmethod
        def deserialize(cls, data: dict[str, Any]) -> RetryAfterPolicy:
            """Return the policy of a serialized DAG."""
            return cls()

    RETRY_AFTER = RetryAfterPolicy()

#: Seconds; longer values of ``Retry-After`` are cut to this, or the task would seem to hang.
LONGEST_WAIT = 86_400.0
