"""Sums of hours and days, from the names of their entries; see :mod:`deepshi_provider.journal.window_costs`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from deepshi_provider.journal.spending import SPENDING, Spending

_ENTRY = re.compile(
    rf"(\d\d)\.([0-9a-f]{{16}})\.(\d+)\.[0-9a-f]{{8}}\.({SPENDING})\.([0-9a-f]{{16}}|-)\.json", re.ASCII
)
#: Key of the sum of all groups.
ALL = ""

Sums = dict[str, Spending]


@dataclass
class _Task:
    """The entries of one task instance in one hour.

    :ivar usd: the highest reported cost of any try.
    :ivar newest: the number of the newest try, and its entry.
    """

    usd: Decimal = Decimal(0)
    newest: tuple[int, Spending] = (-1, Spending())
    group: str = "-"

    def add(self, try_number: int, spent: Spending, group: str) -> None:
        self.usd = max(self.usd, spent.usd)
        if (entry := (try_number, spent)) > self.newest:
            self.newest, self.group = entry, group

    @property
    def spending(self) -> Spending:
        """The highest reported cost of any try, and the possible costs of the newest try.

        A cost that only an earlier try knows is that of a request whose record could not be stored, and the newest try
        counts its claim as possibly paid.
        """
        newest = self.newest[1]
        return newest._replace(usd=self.usd, possible_usd=max(Decimal(0), newest.most_usd - self.usd))


def entry_name(hour: str, key: str, try_number: int, process: str, spent: Spending, group: str) -> str:
    """Return the name of an entry in the folder of its day.

    :param hour: two digits.
    :param key: the task's key, 16 hex digits.
    :param process: 8 hex digits, so that no process deletes the entry of another one with the same try.
    :param group: 16 hex digits, or ``-``.
    """
    return f"{hour}.{key}.{try_number}.{process}.{spent.as_name()}.{group}.json"


def parts_of(today: date, last: str) -> list[str]:
    """Return the parts of this month before the last hour: whole days, and the hours of yesterday and today."""
    days = [today.replace(day=number).isoformat() for number in range(1, today.day + 1)]
    hours = [f"{day}T{hour:02}" for day in days[-2:] for hour in range(24)]
    return [*days[:-2], *(hour for hour in hours if hour < last)]


def by_hour(day: str, names: Iterable[str], without: str = "") -> dict[str, Sums]:
    """Return the sums of each hour of a day, by group and in total.

    :param without: key of a task to leave out.
    """
    hours: dict[str, dict[str, _Task]] = {}
    for name in names:
        if match := _ENTRY.fullmatch(name):
            hour, key, number, spent, group = match.groups()
            if key != without:
                task = hours.setdefault(f"{day}T{hour}", {}).setdefault(key, _Task())
                task.add(int(number), Spending.of_name(spent), group)
    return {hour: together(_of_task(task) for task in tasks.values()) for hour, tasks in hours.items()}


def _of_task(task: _Task) -> Sums:
    return {ALL: task.spending, task.group: task.spending}


def together(parts: Iterable[Sums]) -> Sums:
    """Add up parts, group by group."""
    sums: Sums = {}
    for part in parts:
        for group, spent in part.items():
            sums[group] = sums.get(group, Spending()) + spent
    return sums


def parsed(data: bytes | None) -> dict[str, Sums]:
    """Return the sums in a month's object; empty if it is invalid, since it is a cache."""
    try:
        return {
            part: {group: Spending.of_name(spent) for group, spent in sums.items()}
            for part, sums in json.loads(data or b"{}").items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def dumped(parts: Mapping[str, Sums]) -> bytes:
    """Return the bytes of a month's object; :func:`parsed` reads them."""
    text = {part: {group: spent.as_name(sys.maxsize) for group, spent in sums.items()} for part, sums in parts.items()}
    return json.dumps(text).encode()
