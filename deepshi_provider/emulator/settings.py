"""Settings that can be changed while the emulator runs (``PUT /emulator/settings``)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .catalog_json import SHAPES

FORMS = frozenset(
    {
        "url",
        "no_event_line",
        "whole_answer",
        "partial_images",
        "crlf",
        "bom",
        "multi_data",
        "comment_no_blank",
        "done",
        "no_final_blank",
        "escaped",
        "json_for_stream",
        "no_index",
        "bare",
    }
)
COST_FORMS = ("object", "number", "string", "absent")
MAX_PICTURE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, with their defaults.

    :param latency: seconds per picture; two numbers = random in between.
    :param hold: whether finished pictures wait until this is false again.
    :param keepalive: seconds between two comments of a stream.
    :param picture_bytes: pads every picture to this length; a picture that is already longer is not
        changed.
    :param piece_bytes: maximum bytes per write to the connection.
    :param rate_limit: generation and edit requests per second, ``None`` = no limit.
    :param form: names from :data:`FORMS`.
    """

    latency: float | tuple[float, float] = 2.0
    hold: bool = False
    keepalive: float = 1.0
    picture_bytes: int | None = None
    piece_bytes: int | None = None
    rate_limit: float | None = None
    form: frozenset[str] = frozenset()
    cost_form: str = "object"
    catalog_shape: str = "object"

    def changed(self, values: Mapping[str, object]) -> Settings:
        """Return a copy with some values changed.

        :raises ValueError: a setting is unknown, or a value is invalid.
        """
        checked = {name: checked_setting(name, value) for name, value in values.items()}
        return dataclasses.replace(self, **checked)  # type: ignore[arg-type]  # checked by name

    def draw_latency(self) -> float:
        """Return the seconds for the next request."""
        if isinstance(self.latency, tuple):
            return random.uniform(*self.latency)  # noqa: S311 - no secret
        return self.latency

    def as_json(self) -> dict[str, object]:
        """Return the settings as JSON values."""
        return {**dataclasses.asdict(self), "form": sorted(self.form)}


def checked_setting(name: str, value: object) -> object:
    """Return one value in its internal form.

    :raises ValueError: the name is unknown, or the value is invalid.
    """
    if name not in _CHECKS:
        raise ValueError(f"unknown setting {name!r}; known: {', '.join(_CHECKS)}")
    return _CHECKS[name](name, value)


def checked_forms(name: str, value: object) -> frozenset[str]:
    """Return form names, given one name, a list of them, or null for none."""
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
        raise ValueError(f"{name} must be a list of names")
    if unknown := set(names) - FORMS:
        raise ValueError(f"unknown {name} {sorted(unknown)}; known: {', '.join(sorted(FORMS))}")
    return frozenset(names)


def is_number(value: object) -> bool:
    """Return whether a value is a JSON number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _seconds(name: str, value: object) -> float:
    if not is_number(value) or not 0 <= float(value) < 1e6:  # type: ignore[arg-type]  # a number
        raise ValueError(f"{name} must be seconds, 0 or more")
    return float(value)  # type: ignore[arg-type]  # a number


def _latency(name: str, value: object) -> float | tuple[float, float]:
    if isinstance(value, list) and len(value) == 2:
        low, high = (_seconds(name, item) for item in value)
        return (low, high)
    return _seconds(name, value)


def _positive(name: str, value: object) -> float:
    if _seconds(name, value) == 0:
        raise ValueError(f"{name} must be more than 0")
    return _seconds(name, value)


def _bytes(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_PICTURE_BYTES:
        raise ValueError(f"{name} must be null or an integer up to {MAX_PICTURE_BYTES}")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return value


def _rate_limit(name: str, value: object) -> float | None:
    return None if value is None else _positive(name, value)


def _one_of(names: tuple[str, ...]) -> Callable[[str, object], object]:
    def check(name: str, value: object) -> object:
        if value not in names:
            raise ValueError(f"{name} must be one of {', '.join(names)}")
        return value

    return check


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "latency": _latency,
    "hold": _flag,
    "keepalive": _positive,
    "picture_bytes": _bytes,
    "piece_bytes": _bytes,
    "rate_limit": _rate_limit,
    "form": checked_forms,
    "cost_form": _one_of(COST_FORMS),
    "catalog_shape": _one_of(tuple(SHAPES)),
}
