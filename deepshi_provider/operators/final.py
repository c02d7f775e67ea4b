"""Errors that Airflow must not retry: each is of its own class, and an ``AirflowFailException``.

So ``on_failure_callback`` finds the same fields on ``context["exception"]`` whether or not a retry could have helped.
"""

from __future__ import annotations

import functools

from airflow.providers.common.compat.sdk import AirflowFailException

from deepshi_provider import exceptions
from deepshi_provider.exceptions import DeepshiError


def final(error: DeepshiError) -> DeepshiError:
    """Return the error as one that ends the task, with all its fields."""
    made = _final_class(type(error).__name__)(error.message)
    made.__dict__.update(error.__dict__)
    return made


@functools.cache
def _final_class(name: str) -> type[DeepshiError]:
    kind = exceptions.tree()[name]
    members = {"__module__": __name__, "__qualname__": name, "__doc__": kind.__doc__}
    made: type[DeepshiError] = type(name, (kind, AirflowFailException), members)
    return made


def __getattr__(name: str) -> type[DeepshiError]:
    """Return a class by its name, for what was pickled or serialized."""
    if name not in exceptions.tree():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _final_class(name)
