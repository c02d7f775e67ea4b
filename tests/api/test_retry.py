from __future__ import annotations

import pytest

from deepshi_provider.api.retry import wait_before_retry
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    BudgetExceeded,
    Charged,
    ConnectionFailed,
    ContentRefused,
    DeepshiError,
    InsufficientQuota,
    InvalidConnection,
    InvalidRequest,
    InvalidResponse,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    ServerFailed,
    StorageFailed,
    TimedOut,
)

FREE = [ConnectionFailed, RateLimited, ServerFailed]
NEVER = [
    *(AuthenticationFailed, BudgetExceeded, ContentRefused, DeepshiError, InsufficientQuota, InvalidConnection),
    *(InvalidRequest, InvalidResponse, OutcomeUnknown, PermissionDenied, StorageFailed, TimedOut),
]


def wait(error: DeepshiError, attempt: int = 1, *, max_retries: int = 3, jitter: float = 1.0) -> float | None:
    return wait_before_retry(error, attempt, max_retries=max_retries, max_wait=60.0, jitter=jitter)


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, None), (5, None)])
def test_free_failures_are_retried_with_backoff(kind: type[DeepshiError], attempt: int, seconds: float | None) -> None:
    assert wait(kind("m"), attempt) == seconds
    assert wait(kind("m"), attempt, jitter=0.5) == (seconds and seconds / 2)
    assert wait(kind("m"), attempt, jitter=0.0) == (None if seconds is None else 0.0)


@pytest.mark.parametrize(("attempt", "seconds"), [(6, 32.0), (7, 60.0), (50, 60.0), (5_000, 60.0)])
def test_no_wait_is_longer_than_allowed(attempt: int, seconds: float) -> None:
    assert wait(RateLimited("m"), attempt, max_retries=10_000) == seconds


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("charged", ["yes", "unknown"])
def test_possibly_paid_requests_are_never_retried(kind: type[DeepshiError], charged: Charged) -> None:
    assert wait(kind("m", charged=charged, retry_after=1.0)) is None


@pytest.mark.parametrize("kind", NEVER)
@pytest.mark.parametrize("charged", [None, "no"])
def test_nothing_else_is_ever_retried(kind: type[DeepshiError], charged: Charged | None) -> None:
    assert wait(kind("m", charged=charged, retry_after=1.0)) is None


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize(
    ("retry_after", "seconds"), [(0.0, 0.0), (7.5, 7.5), (60.0, 60.0), (60.1, None), (3600.0, None)]
)
def test_retry_after_is_obeyed_exactly_or_left_to_the_scheduler(
    kind: type[DeepshiError], retry_after: float, seconds: float | None
) -> None:
    assert wait(kind("m", retry_after=retry_after), jitter=0.1) == seconds
    assert wait(kind("m", retry_after=retry_after), 4) is None


def test_no_retries_means_none() -> None:
    assert wait(RateLimited("m", retry_after=0.0), max_retries=0) is None
