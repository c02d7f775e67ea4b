"""The checked filters of a request, and the costs that match them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from typing import Annotated, Any

from fastapi import Depends, HTTPException
from sqlalchemy import select
from sqlalchemy.orm import Session

from deepshi_provider.plugins.costs.access import DagModel, DagTag, Reader, ReaderDep, create_session
from deepshi_provider.plugins.costs.book import Book, Sheet
from deepshi_provider.plugins.costs.kept import KeptBooks, Period
from deepshi_provider.plugins.costs.sheets import Scope, SheetRow, sheet_rows
from deepshi_provider.plugins.costs.views import Choice, View

#: Maximum days of a period.
MOST_DAYS = 366
_USUAL_DAYS = 30
#: Lengths of the periods that are counted before anybody asks, both until today: the page's default and its longest.
AHEAD_DAYS = (_USUAL_DAYS, 365)
#: Maximum number of views that a book keeps; those of a year have some MB each.
_MOST_VIEWS = 4


def today() -> date:
    """Return the current day in UTC, as the whole page uses."""
    return datetime.now(timezone.utc).date()


@dataclass(frozen=True, kw_only=True)
class Question:
    """The filters of a request that the reader may make.

    :param anew: count, even if there is a cached count.
    """

    reader: Reader
    scope: Scope
    dag_id: str | None
    task_id: str | None
    map_index: int | None
    model: str | None
    conn_id: str | None
    tag: str | None
    owner: str | None
    group: str | None
    text: str | None
    anew: bool

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables in the answer."""
        return ("tasks", "models", "instances") if self.scope.run else ("dags", "tasks", "models", "runs")

    @property
    def name(self) -> str:
        """Base name of downloaded files."""
        parts = self.scope.run or (*filter(None, [self.dag_id]), f"{self.scope.start}_{self.scope.end}")
        return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts))[:100]

    def as_json(self) -> dict[str, Any]:
        """Return the period, and the one before it."""
        start, end = self.scope.start, self.scope.end
        before = Period.of(start, end).first
        return {
            "start": start.isoformat(),
            "end": end.isoformat(),
            "before_start": before.isoformat(),
            "before_end": (start - timedelta(days=1)).isoformat(),
        }

    def view(self, session: Session, period: tuple[date, date] | None = None) -> View:
        """Return the matching costs.

        :param period: first and last day, in the last weeks, instead of the requested ones.
        """
        start, end = period or (self.scope.start, self.scope.end)
        choice = Choice(
            dag_ids=frozenset(self._dag_ids(session)),
            dag_id=self.dag_id,
            run_id=self.scope.run[1] if self.scope.run else None,
            task_id=self.task_id,
            map_index=self.map_index,
            model=self.model,
            conn_id=self.conn_id,
            group=self.group,
        )
        if self.scope.run:
            scope = replace(self.scope, word=_longest_word(self.text))
            book = Book(by_instance=True).count(sheet_rows(session, scope), self._has_text if self.text else None)
            return View(book, choice, date.min, date.max)
        # A month is recent, so the book of the page's default period includes it.
        needed = Period.of(end - timedelta(days=_USUAL_DAYS - 1) if period else start, end)
        book = self._book(needed)
        key = (choice, start, end, needed.first)
        found: View | None = book.views.get(key)
        if found is None:
            if len(book.views) >= _MOST_VIEWS:
                book.views.clear()
            found = book.views[key] = View(book, choice, start, end, needed.first)
        return found

    def _book(self, period: Period) -> Book:
        if self.text:
            scope = replace(_scope(period), word=_longest_word(self.text))
            with create_session() as session:
                return Book().count(sheet_rows(session, scope), self._has_text)
        return _books.get(period, anew=self.anew)

    def _has_text(self, row: SheetRow, sheet: Sheet) -> bool:
        if row.dag_id not in self.reader.dag_ids or not self.reader.may_read_prompts(row.dag_id):
            return False
        text = (self.text or "").lower()
        return any(text in (image.prompt or "").lower() for image in sheet.images)

    def narrow_scope(self, session: Session) -> Scope:
        """Return the scope of the matching sheets."""
        dag_ids = self._dag_ids(session) & ({self.dag_id} if self.dag_id else self.reader.dag_ids)
        word = _longest_word(self.text) or (self.model if self.model and self.model.isascii() else None)
        return replace(self.scope, dag_ids=dag_ids, task_id=self.task_id, map_index=self.map_index, word=word)

    def _dag_ids(self, session: Session) -> Set[str]:
        found = set(self.reader.dag_ids)
        if self.tag:
            found &= set(session.scalars(select(DagTag.dag_id).where(DagTag.name == self.tag)))
        if self.owner:
            query = select(DagModel.dag_id, DagModel.owners)
            found &= {dag_id for dag_id, owners in session.execute(query) if self.owner in _names(owners)}
        return found

    def labels(self, session: Session, dag_ids: Set[str]) -> dict[str, list[str]]:
        """Return the tags and owners of some DAGs."""
        tags = session.execute(select(DagTag.dag_id, DagTag.name))
        owners = session.execute(select(DagModel.dag_id, DagModel.owners))
        return {
            "tags": sorted({name for dag_id, name in tags if dag_id in dag_ids}),
            "owners": sorted({name for dag_id, names in owners if dag_id in dag_ids for name in _names(names)}),
        }

    def sees_all(self, view: View) -> bool:
        """Return whether the reader sees all costs that budgets count, without any hidden by rights or filters."""
        filters = (self.dag_id, self.task_id, self.model, self.tag, self.owner, self.text, self.scope.run)
        return not any(filters) and view.hidden == 0


def _question(
    reader: ReaderDep,
    start: date | None = None,
    end: date | None = None,
    dag_id: str | None = None,
    run_id: str | None = None,
    task_id: str | None = None,
    map_index: int | None = None,
    model: str | None = None,
    conn_id: str | None = None,
    tag: str | None = None,
    owner: str | None = None,
    group: str | None = None,
    text: str | None = None,
    anew: bool = False,
) -> Question:
    end = end or today()
    start = start or max(date.min + timedelta(days=2 * MOST_DAYS), end) - timedelta(days=_USUAL_DAYS - 1)
    if run_id and not dag_id:
        raise HTTPException(422, "run_id needs dag_id")
    if not 0 <= (end - start).days < MOST_DAYS or end == date.max or (start - date.min).days < MOST_DAYS:
        raise HTTPException(422, f"A period has 1 to {MOST_DAYS} days")
    run = (dag_id, run_id) if dag_id and run_id else None
    return Question(
        reader=reader,
        scope=Scope(dag_ids=reader.dag_ids, start=start, end=end, run=run),
        dag_id=dag_id or None,
        task_id=task_id or None,
        map_index=map_index,
        model=model or None,
        conn_id=conn_id or None,
        tag=tag or None,
        owner=owner or None,
        group=group or None,
        text=text or None,
        anew=anew,
    )


QuestionDep = Annotated[Question, Depends(_question)]


def count_ahead(days: int) -> Book:
    """Count the costs of the last days and of the period before, unless they are cached."""
    end = today()
    return _books.get(Period.of(end - timedelta(days=days - 1), end))


def _scope(period: Period) -> Scope:
    # For all DAGs, so that all readers share one count; the view keeps only the DAGs that the reader may read.
    return Scope(dag_ids=None, start=period.first, end=period.end)


def _count(period: Period) -> Book:
    with create_session() as session:
        return Book(runs_from=period.start).count(sheet_rows(session, _scope(period)))


_books = KeptBooks(_count)


def _longest_word(text: str | None) -> str | None:
    """Return the longest run of letters in a text that the database's JSON never escapes."""
    return max(re.findall(r"[A-Za-z0-9]+", text or ""), key=len, default=None)


def _names(owners: str | None) -> Iterable[str]:
    return [name.strip() for name in (owners or "").split(",") if name.strip()]
