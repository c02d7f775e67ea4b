"""A connection's budgets per day and month: settings only, without the spending."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timezone, tzinfo
from decimal import Decimal
from typing import Annotated, Any, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from deepshi_provider.costs.money import MOST_DIGITS

#: Maximum characters of the name of a ``budget_group``.
LONGEST_GROUP = 100

Limit = Annotated[Decimal, Field(ge=0, max_digits=2 * MOST_DIGITS, decimal_places=MOST_DIGITS)]


class GroupBudget(BaseModel):
    """The limits of one budget group of a connection, in USD: a team, a DAG, a customer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_GROUP)]
    max_cost_usd_per_day: Limit | None = None
    max_cost_usd_per_month: Limit | None = None


def _groups(value: Any) -> Any:
    """Convert ``{"<group>": {"max_cost_usd_per_day": …}}``, or its JSON, to a list of groups."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, Mapping) or not all(isinstance(limits, Mapping) for limits in found.values()):
        raise ValueError('an object is needed, such as {"team-a": {"max_cost_usd_per_day": 5}}')
    if any("group" in limits for limits in found.values()):
        raise ValueError("a group has the limits max_cost_usd_per_day and max_cost_usd_per_month, and no group")
    if len({str(group).strip() for group in found}) < len(found):
        raise ValueError("two groups have the same name")
    return tuple({**limits, "group": group} for group, limits in found.items())


GroupBudgets = Annotated[tuple[GroupBudget, ...], BeforeValidator(_groups)]


def checked_zone(name: str) -> str:
    """Return the name of a time zone, if it is valid.

    :raises ValueError: there is no such time zone.
    """
    try:
        zone_of(name)
    except (OSError, ValueError, KeyError):  # an invalid name may be that of a directory
        raise ValueError("not a time zone, such as Europe/Berlin") from None
    return name


def zone_of(name: str) -> tzinfo:
    """Return a time zone; UTC works without a time zone database."""
    return timezone.utc if name == "UTC" else ZoneInfo(name)


class Budget(NamedTuple):
    """One limit.

    :param setting: name of the setting in the connection's extra.
    :param is_month: whether it is a limit per month; otherwise per day.
    :param group: its budget group; ``None`` for the whole connection.
    """

    setting: str
    usd: Decimal
    is_month: bool
    group: str | None = None

    @property
    def name(self) -> str:
        """The limit's name in messages."""
        return f"{self.setting} of budget group {self.group!r}" if self.group else self.setting


class Budgets(NamedTuple):
    """The limits that apply to one task.

    :param group: the task's budget group.
    :param warn_at: share of a limit at which a warning is given.
    """

    conn_id: str
    zone: tzinfo
    limits: tuple[Budget, ...] = ()
    group: str | None = None
    warn_at: Decimal = Decimal("0.8")

    @property
    def has_month(self) -> bool:
        """Whether there is a limit per month."""
        return any(limit.is_month for limit in self.limits)


def limits_of(source: Any, group: str | None = None) -> tuple[Budget, ...]:
    """Return the limits in settings, or in one of their groups."""
    kinds = (("max_cost_usd_per_day", False), ("max_cost_usd_per_month", True))
    values = ((setting, getattr(source, setting), is_month) for setting, is_month in kinds)
    return tuple(
        Budget(setting=setting, usd=usd, is_month=is_month, group=group)
        for setting, usd, is_month in values
        if usd is not None
    )
