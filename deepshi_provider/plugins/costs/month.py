"""The calendar month so far, its forecast, and the budgets of the connections."""

from __future__ import annotations

import calendar
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_UP, Decimal
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from deepshi_provider.client.budgets import GroupBudgets
from deepshi_provider.costs.money import amount_of
from deepshi_provider.plugins.costs.access import Connection
from deepshi_provider.plugins.costs.book import Sum, added
from deepshi_provider.plugins.costs.views import View

#: Number of whole days before today whose average the forecast uses for the rest of the month.
BASIS_DAYS = 14

_DEFAULT = "deepshi_default"
_GROUPS: TypeAdapter[GroupBudgets] = TypeAdapter(GroupBudgets)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits of one connection, or of a budget group in it, in USD.

    :param zone: name of the time zone of its days and months, which the page's, in UTC, may differ from.
    :param counts_unnamed: whether it counts sheets that name no connection, since there is only one.
    """

    conn_id: str
    group: str | None = None
    per_day: Decimal | None = None
    per_month: Decimal | None = None
    zone: str = "UTC"
    counts_unnamed: bool = False

    def counts(self, conn_id: str) -> bool:
        """Return whether costs of a connection count; it is empty for sheets that name none."""
        return conn_id == self.conn_id or (self.counts_unnamed and not conn_id)


def first_day(today: date) -> date:
    """Return the first day that the view of the month needs."""
    return min(today.replace(day=1), today - timedelta(days=BASIS_DAYS))


def month_as_json(view: View, today: date, budgets: Sequence[Budget]) -> dict[str, Any]:
    """Return the days of the current month with the spending up to each, the forecast for its end, and budgets.

    ``budget_usd`` and ``day_budget_usd`` are limits that all of these costs count against; each is ``None`` if there is
    no such limit, or more than one.

    :param view: costs from :func:`first_day` to today.
    :param budgets: each that costs in this view count against.
    """
    length = calendar.monthrange(today.year, today.month)[1]
    by_day = added(view.lines.items(), lambda line: line.day)
    spent = Decimal(0)
    days = []
    for number in range(1, today.day + 1):
        spent += by_day.get(today.replace(day=number), Sum()).cost_usd
        days.append({"day": today.replace(day=number).isoformat(), "spent_usd": f"{spent:f}"})
    before = [by_day.get(today - timedelta(days=back), Sum()).cost_usd for back in range(1, BASIS_DAYS + 1)]
    daily = sum(before, Decimal(0)) / BASIS_DAYS
    now = by_day.get(today, Sum()).cost_usd
    forecast = spent + max(Decimal(0), daily - now) + daily * (length - today.day)
    return {
        "start": today.replace(day=1).isoformat(),
        "end": today.replace(day=length).isoformat(),
        "days": days,
        "spent_usd": f"{spent:f}",
        "today_usd": f"{now:f}",
        "forecast_usd": f"{forecast.quantize(Decimal('1e-12'), ROUND_UP):f}",
        "budget_usd": _text(_common(view, {budget: budget.per_month for budget in budgets})),
        "day_budget_usd": _text(_common(view, {budget: budget.per_day for budget in budgets})),
        "budgets": [_budget_as_json(view, today, budget) for budget in budgets],
    }


def _common(view: View, limits: Mapping[Budget, Decimal | None]) -> Decimal | None:
    """Return the only limit, if all costs of the view count against it."""
    given = [budget for budget, limit in limits.items() if limit is not None]
    if len(given) != 1 or not all(
        given[0].counts(line.conn_id) for line, found in view.lines.items() if found.cost_usd
    ):
        return None
    return limits[given[0]]


def _budget_as_json(view: View, today: date, budget: Budget) -> dict[str, Any]:
    days: dict[date, Decimal] = {}
    for line, found in view.lines.items():
        if budget.counts(line.conn_id):
            days[line.day] = days.get(line.day, Decimal(0)) + found.cost_usd
    spent = sum((cost for day, cost in days.items() if day >= today.replace(day=1)), Decimal(0))
    return {
        "connection": budget.conn_id,
        "group": budget.group,
        "zone": budget.zone,
        "spent_usd": f"{spent:f}",
        "limit_usd": _text(budget.per_month),
        "today_usd": f"{days.get(today, Decimal(0)):f}",
        "day_limit_usd": _text(budget.per_day),
    }


def budgets_of(session: Session, view: View, conn_id: str | None, group: str | None) -> list[Budget]:
    """Return the budgets of the connections: of all that Airflow's database or a sheet names, or of one.

    :param conn_id: the only connection to look at.
    :param group: the budget group whose limits to return, instead of those of the whole connections.
    """
    query = select(Connection.conn_id).where(Connection.conn_type == "deepshi")
    names = {_DEFAULT, *session.scalars(query)} | (view.all_conn_ids - {""})
    extras = {name: extra for name in sorted(names) if (extra := _extra(name)) is not None}
    found = []
    for name, extra in extras.items():
        limits = extra if group is None else _group_limits(extra, group)
        budget = Budget(
            conn_id=name,
            group=group,
            per_day=amount_of(limits.get("max_cost_usd_per_day")),
            per_month=amount_of(limits.get("max_cost_usd_per_month")),
            zone=str(extra.get("budget_time_zone") or "UTC"),
            counts_unnamed=len(extras) == 1,
        )
        if conn_id in (None, name) and (budget.per_day, budget.per_month) != (None, None):
            found.append(budget)
    return found


def _extra(name: str) -> dict[str, Any] | None:
    """Return a connection's extra from any of Airflow's sources; ``None`` if there is no such connection."""
    # A secrets backend may raise anything, and an extra may not be JSON; this page does not report either.
    with contextlib.suppress(Exception):
        return dict(Connection.get_connection_from_secrets(name).extra_dejson)
    return None


def _group_limits(extra: dict[str, Any], group: str) -> dict[str, Any]:
    """Return the limits of a budget group; none if the connection has no such group, or invalid ones."""
    with contextlib.suppress(ValidationError):
        for named in _GROUPS.validate_python(extra.get("budget_groups") or {}):
            if named.group == group:
                return named.model_dump()
    return {}


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"
