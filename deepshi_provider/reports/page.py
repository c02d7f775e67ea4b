"""Makes the report as one self-contained HTML file, without external scripts, style sheets or images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from jinja2 import Environment, PackageLoader, StrictUndefined

from deepshi_provider.costs.budget_state import WindowState
from deepshi_provider.costs.sheet import HasCosts, SheetImage, cost_text
from deepshi_provider.reports import links
from deepshi_provider.reports.totals import CostReport

#: Maximum number of bars in a plot; the tables have all entries.
MOST_BARS = 20

_PAGES = Environment(
    loader=PackageLoader("deepshi_provider.reports", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """One image of the gallery.

    :param source: a ``data:`` URI.
    """

    source: str
    task_id: str
    map_index: int
    image: SheetImage


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a plot.

    :param percent: width in percent of the plot.
    """

    name: str
    cost_usd: Decimal
    percent: float


def as_html(
    report: CostReport,
    thumbnails: Sequence[Thumbnail],
    *,
    budgets: Sequence[WindowState] = (),
    airflow_url: str | None = None,
) -> str:
    """Return the page; all external text is escaped.

    :param budgets: the connection's budgets per day and month.
    :param airflow_url: URL of Airflow's UI; without it the page has no links.
    """
    page = _PAGES.get_template("page.html.jinja")
    return page.render(
        report=report,
        thumbnails=thumbnails,
        plots=[
            ("By task", _bars([(task.task_id, task.cost_usd) for task in report.tasks])),
            ("By model", _bars([(model.model, model.cost_usd) for model in report.models])),
        ],
        plans=[instance.sheet for instance in report.instances if instance.sheet.plan],
        limit_percent=_percent(report.cost_usd, report.max_cost_usd),
        budgets=budgets,
        airflow_url=airflow_url,
        links=links,
        percent=_percent,
        rounded=rounded,
        usd=_usd,
        bounds=bounds,
        cost_text=cost_text,
    )


def bounds(sums: HasCosts) -> str:
    """Return a sum for a heading or a cell: ``$0.039``, ``at least $0.039, up to about $0.078``, or ``at least …``."""
    if not (sums.untold or sums.unknown_outcomes):
        return _usd(sums.cost_usd)
    cost = sums.cost_usd or Decimal(0)
    least = _usd(cost)
    most = least if sums.may_have_cost_usd is None else _usd(cost + sums.may_have_cost_usd)
    return f"at least {least}" if most == least else f"at least {least}, up to about {most}"


def _bars(costs: list[tuple[str, Decimal | None]]) -> list[Bar]:
    paid = sorted(((name, cost) for name, cost in costs if cost), key=lambda item: -item[1])[:MOST_BARS]
    highest = paid[0][1] if paid else Decimal(1)
    return [Bar(name=name, cost_usd=cost, percent=round(float(100 * cost / highest), 3)) for name, cost in paid]


def _percent(cost: Decimal | None, limit: Decimal | None) -> float | None:
    if limit is None:
        return None
    return 100.0 if not limit else min(100.0, round(float(100 * (cost or Decimal(0)) / limit), 3))


def rounded(amount: Decimal | None) -> str:
    """Return an amount in cents, or with four significant digits if it is small, like the Deepshi costs page."""
    if amount is None:
        return _usd(amount)
    power = math.floor(amount.copy_abs().log10()) if amount else 0
    return _dollars(f"{amount:,.{max(2, 3 - power)}f}")


def _usd(amount: Decimal | None) -> str:
    """Return an amount with all its digits, at least two decimals."""
    return "not reported" if amount is None else _dollars(f"{amount:f}")


def _dollars(number: str) -> str:
    whole, _, decimals = number.partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(2, '0')}"
