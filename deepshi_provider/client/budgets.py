"""What a connection may spend in a day and in a month: plain settings, without what was spent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timezone, tzinfo
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Limit = Annotated[Decimal, Field(ge=0)]


class GroupBudget(BaseModel):
    """What one budget group of a connection may spend, in USD: a team, a DAG, a customer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    max_cost_usd_per_day: Limit | None = None
    max_cost_usd_per_month: Limit | None = None


def _groups(value: Any) -> Any:
    """Return groups as a list, given ``{"<group>": {"max_cost_usd_per_day": …}}`` or its JSON."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, Mapping) or not all(isinstance(limits, Mapping) for limits in found.values()):
        raise ValueError('an object is needed, such as {"team-a": {"max_cost_usd_per_day": 5}}')
    return tuple({**limits, "group": group} for group, limits in found.items())


GroupBudgets = Annotated[tuple[GroupBudget, ...], BeforeValidator(_groups)]


def checked_zone(name: str) -> str:
    """Return the name of a time zone.

    :raises ValueError: there is no such zone.
    """
    try:
        zone_of(name)
    except (OSError, ValueError, KeyError):  # a name that is none may be that of a directory
        raise ValueError("not a time zone, such as Europe/Berlin") from None
    return name


def zone_of(name: str) -> tzinfo:
    """Return a time zone; UTC needs no database of them."""
    return timezone.utc if name == "UTC" else ZoneInfo(name)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One limit.

    :param setting: of the connection's extra.
    :param is_month: whether it is for a month; otherwise for a day.
    :param group: that it is for; ``None`` for all of the connection.
    """

    setting: str
    usd: Decimal
    is_month: bool
    group: str | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.setting} of budget group {self.group!r}" if self.group else self.setting


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """The limits that hold for one task.

    :param group: the task's own budget group.
    :param warn_at: share of a limit at which a warning is given.
    """

    conn_id: str
    zone: tzinfo
    limits: tuple[Budget, ...] = ()
    group: str | None = None
    warn_at: Decimal = Decimal("0.8")

    @property
    def has_month(self) -> bool:
        """Whether one of them is for a month."""
        return any(limit.is_month for limit in self.limits)


def limits_of(source: Any, group: str | None = None) -> tuple[Budget, ...]:
    """Return the limits that settings or one of their groups name."""
    kinds = (("max_cost_usd_per_day", False), ("max_cost_usd_per_month", True))
    values = ((setting, getattr(source, setting), is_month) for setting, is_month in kinds)
    return tuple(
        Budget(setting=setting, usd=usd, is_month=is_month, group=group)
        for setting, usd, is_month in values
        if usd is not None
    )
