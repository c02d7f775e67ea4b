from __future__ import annotations

import json
import pickle
import re
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider import exceptions
from deepshi_provider.exceptions import DeepshiError


def tree(kind: type[DeepshiError]) -> list[type[DeepshiError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]


CLASSES = tree(DeepshiError)
FACTS: dict[str, Any] = {
    "status_code": 429,
    "code": "slow_down",
    "request_id": "req-1",
    "retry_after": 2.5,
    "charged": "unknown",
    "cost_usd": Decimal("0.000135"),
    "cost_is_complete": False,
    "sends": 3,
}


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn: list[tuple[str, str]] = []
    above: list[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z]\w+)(  .*)?$", line)
        if found:
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn.append((found[2], above[depth - 1] if depth else ""))
    real = [(kind.__name__, (kind.__base__ or kind).__name__) for kind in CLASSES]
    assert drawn == [("DeepshiError", ""), *drawn[1:]]
    assert sorted(drawn[1:]) == sorted(real[1:])
    assert all(f"{name} " in (exceptions.__doc__ or "") for name, _ in drawn[1:])


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_serialization(kind: type[DeepshiError]) -> None:
    error = kind("what happened", **FACTS)
    data = json.loads(json.dumps(error.as_data()))
    assert data == {"type": kind.__name__, "message": "what happened", **FACTS, "cost_usd": "0.000135"}
    for copy in (DeepshiError.from_data(data), pickle.loads(pickle.dumps(error))):  # noqa: S301 -- our own bytes
        assert type(copy) is kind
        assert copy.as_data() == error.as_data()
        assert str(copy) == str(error)
        assert copy.cost_usd == Decimal("0.000135")


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_with_few_fields_survives_serialization(kind: type[DeepshiError]) -> None:
    error = kind("m")
    assert DeepshiError.from_data(error.as_data()).as_data() == error.as_data()
    assert pickle.loads(pickle.dumps(error)).as_data() == error.as_data()  # noqa: S301 -- our own bytes
    assert error.charged == kind.default_charged


def test_an_error_of_a_later_release_is_still_an_error() -> None:
    copy = DeepshiError.from_data({"type": "NewError", "message": "m", "charged": "yes"})
    assert (type(copy), copy.message, copy.charged) == (DeepshiError, "m", "yes")


def test_only_errors_after_sending_may_have_a_cost() -> None:
    costly = {kind.__name__: kind.default_charged for kind in CLASSES if kind.default_charged != "no"}
    assert costly == {
        "OutcomeUnknown": "unknown",
        "ResendsExhausted": "unknown",
        "InvalidResponse": "yes",
        "ResultMismatch": "yes",
    }


@pytest.mark.slow
def test_an_error_shows_what_an_engineer_on_call_needs() -> None:
    error = exceptions.RateLimited("Too many requests", **FACTS)
    assert str(error) == (
        "Too many requests [HTTP 429, charged: unknown, code: slow_down, cost: $0.000135, request: req-1]"
    )
    assert str(exceptions.OutcomeUnknown("Lost")) == "Lost [charged: unknown]"
    assert str(DeepshiError("Free", cost_usd=Decimal(0))) == "Free [charged: no, cost: $0]"
