"""Errors that Airflow must not retry: each keeps its class, and is also an ``AirflowFailException``.

``on_failure_callback`` finds the same fields on ``context["exception"]`` for errors that can and cannot be retried.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider import exceptions
from deepshi_provider.exceptions import DeepshiError


def final(error: DeepshiError) -> DeepshiError:
    """Return the error, with all its fields, as one that Airflow does not retry."""
    made = _final_class(type(error).__name__)(error.message)
    made.__dict__.update(error.__dict__)
    return made


@contextlib.contextmanager
def final_errors() -> Iterator[None]:
    """Raise errors that a retry cannot fix as ones that Airflow does not retry."""
    try:
        yield
    except DeepshiError as err:
        if err.retryable:
            raise
        raise final(err) from err


@functools.cache
def _final_class(name: str) -> type[DeepshiError]:
    kind = exceptions.tree()[name]
    members = {"__module__": __name__, "__qualname__": name, "__doc__": kind.__doc__}
    made: type[DeepshiError] = type(name, (kind, AirflowFailException), members)
    return made


def __getattr__(name: str) -> type[DeepshiError]:
    """Return a class by name, for unpickling and deserialization."""
    if name not in exceptions.tree():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _final_class(name)
