"""The parts of an answer other than its images, limited to a bounded size and safe numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

_LARGEST_COST_USD = 1_000_000
#: Maximum digits of a cost; sums of longer ones could not be exact.
_MOST_DIGITS = 30
_COST = re.compile(r"\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*", re.ASCII)

#: Integers from here on do not fit into the 64 bits of most databases and readers.
_TOO_LARGE = 2**63
#: Limits on ``usage``, since it goes into XCom, that is, into Airflow's database.
_MOST_DEPTH = 5
_MOST_ENTRIES = 40
_LONGEST_TEXT = 200
_LONGEST_KEY = 60
_MOST_CHARACTERS = 4_000
#: Maximum characters of a revised prompt.
_LONGEST_PROMPT = 10_000


def cost_of(usage: Any) -> Decimal | None:
    """Return ``usage.cost.total_cost`` in USD, exactly; ``None`` if it is missing or invalid.

    The cost may also be a bare number or a string. One of more than 30 digits is invalid.
    """
    usage = usage[0] if isinstance(usage, list) and len(usage) == 1 else usage
    cost = usage.get("cost") if isinstance(usage, Mapping) else None
    if isinstance(cost, Mapping):
        cost = cost.get("total_cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float | Decimal | str):
        return None
    if isinstance(cost, int) and abs(cost) >= _LARGEST_COST_USD:  # Python refuses to write very long ones
        return None
    text = str(cost)
    if len(text) > 2 * _MOST_DIGITS or not _COST.fullmatch(text):
        return None
    amount = Decimal(text)
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or not -_MOST_DIGITS < exponent < _MOST_DIGITS:
        return None
    digits = f"{amount:f}".replace(".", "")
    return amount if len(digits) <= _MOST_DIGITS and amount < _LARGEST_COST_USD else None


def reported_cost(document: Any) -> Decimal | None:
    """Return the cost in the ``usage`` of an answer, an event or an error, or of an object in it.

    Of a list, only if it has one item: whether several costs are parts of the request's cost is not known.
    """
    if isinstance(document, list) and len(document) == 1:
        return reported_cost(document[0])
    if not isinstance(document, Mapping):
        return None
    costs = (cost_of(document.get("usage")), *map(reported_cost, document.values()))
    return next((cost for cost in costs if cost is not None), None)


def pruned(value: Any) -> Any:
    """Return JSON data of at most about 4 kB that all databases and readers accept.

    Values that are nested too deep and numbers that are too large become ``None``; long texts are cut, and surplus
    entries are left out.
    """
    return _Pruner().prune(value, _MOST_DEPTH)


class _Pruner:
    def __init__(self) -> None:
        self._room = _MOST_CHARACTERS

    def prune(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict) and depth:
            kept: dict[str, Any] = {}
            for key, item in islice(value.items(), _MOST_ENTRIES):
                if self._takes(str(key)[:_LONGEST_KEY]):
                    kept[str(key)[:_LONGEST_KEY]] = self.prune(item, depth - 1)
            return kept
        if isinstance(value, list) and depth:
            return [self.prune(item, depth - 1) for item in islice(value, _MOST_ENTRIES) if self._takes("")]
        kept_value = _plain(value)
        return kept_value if self._takes(str(kept_value)) else None

    def _takes(self, text: str) -> bool:
        self._room -= len(text.encode()) + len('"": ')
        return self._room >= 0


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_LONGEST_TEXT]
    if isinstance(value, bool) or value is None:
        return value
    is_number = isinstance(value, int | float | Decimal)
    return value if is_number and -_TOO_LARGE < value < _TOO_LARGE else None


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -_TOO_LARGE < value < _TOO_LARGE else None


def _text(longest: int) -> BeforeValidator:
    return BeforeValidator(lambda value: value[:longest] if isinstance(value, str) else None)


def _usage(value: Any) -> Any:
    return pruned(value) if isinstance(value, dict) else None


class Picture(BaseModel):
    """One entry of an answer's ``data``, without the image itself."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    index: Annotated[int | None, BeforeValidator(_whole)] = None
    revised_prompt: Annotated[str | None, _text(_LONGEST_PROMPT)] = None


class Answer(BaseModel):
    """The parts of an answer other than its images; missing or malformed values are ``None``.

    :param created: unix seconds.
    :param size: the real size, ``WIDTHxHEIGHT`` in pixels.
    :param usage: tokens and cost as sent, :func:`pruned`.
    :param cost_usd: the cost; ``None`` if the answer does not report it.
    """

    model_config = ConfigDict(extra="ignore", defer_build=True)

    created: Annotated[int | None, BeforeValidator(_whole)] = None
    model: Annotated[str | None, _text(_LONGEST_TEXT)] = None
    size: Annotated[str | None, _text(_LONGEST_TEXT)] = None
    usage: Annotated[dict[str, Any] | None, BeforeValidator(_usage)] = None
    cost_usd: Decimal | None = None
