"""The calendar month so far, its forecast, and the budget of the connections."""

from __future__ import annotations

import calendar
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_UP, Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from deepshi_provider.costs.money import amount_of
from deepshi_provider.plugins.costs.access import Connection
from deepshi_provider.plugins.costs.book import Sum
from deepshi_provider.plugins.costs.views import View, added

#: Number of whole days before today whose average the forecast uses for the rest of the month.
BASIS_DAYS = 14

_DEFAULT = "deepshi_default"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The sum of all connections' limits, in USD; ``None`` if one of them has no limit."""

    per_day: Decimal | None = None
    per_month: Decimal | None = None


def first_day(today: date) -> date:
    """Return the first day that the view of the month needs."""
    return min(today.replace(day=1), today - timedelta(days=BASIS_DAYS))


def month_as_json(view: View, today: date, budget: Budget) -> dict[str, Any]:
    """Return the days of the current month with the spending up to each, and the forecast for its end.

    :param view: costs from :func:`first_day` to today.
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
        "budget_usd": _text(budget.per_month),
        "day_budget_usd": _text(budget.per_day),
    }


def budget_of(session: Session) -> Budget:
    """Return the sum of the limits in the extras of the connections of type ``deepshi``."""
    names = {_DEFAULT, *session.scalars(select(Connection.conn_id).where(Connection.conn_type == "deepshi"))}
    extras = [extra for name in sorted(names) if (extra := _extra(name)) is not None]
    return Budget(
        per_day=_all_together(amount_of(extra.get("max_cost_usd_per_day")) for extra in extras),
        per_month=_all_together(amount_of(extra.get("max_cost_usd_per_month")) for extra in extras),
    )


def _extra(name: str) -> dict[str, Any] | None:
    """Return a connection's extra from any of Airflow's sources; ``None`` if there is no such connection."""
    # A secrets backend may raise anything, and an extra may not be JSON; this page does not report either.
    with contextlib.suppress(Exception):
        return dict(Connection.get_connection_from_secrets(name).extra_dejson)
    return None


def _all_together(limits: Iterable[Decimal | None]) -> Decimal | None:
    """Return the sum of the limits, or ``None`` if one of them is missing."""
    given = list(limits)
    known = [limit for limit in given if limit is not None]
    return sum(known, Decimal(0)) if known and len(known) == len(given) else None


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"
