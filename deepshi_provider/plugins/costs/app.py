"""The routes of the page. Each asks for a login; data and images also for the right to read the DAG's XComs."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from importlib import resources
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.responses import StreamingResponse

from deepshi_provider.costs.sheet import XCOM_KEY
from deepshi_provider.plugins.costs.access import ReaderDep, create_session, logged_in
from deepshi_provider.plugins.costs.gallery import newest_pictures, read_sheet
from deepshi_provider.plugins.costs.pictures import PictureMissingError, PictureRefusedError, open_picture
from deepshi_provider.plugins.costs.reviews import reviewed
from deepshi_provider.plugins.costs.sheets import Scope, one_row, sheet_rows
from deepshi_provider.plugins.costs.totals import Totals
from deepshi_provider.reports.review import XCOM_KEY as REVIEW_KEY

#: Days of a period at most.
MOST_DAYS = 366

_PAGE = resources.files("deepshi_provider.plugins.costs") / "page"
_FILES = {
    "costs.css": "text/css",
    "costs.js": "text/javascript",
    "dialog.js": "text/javascript",
    "drawing.js": "text/javascript",
    "query.js": "text/javascript",
    "theme.js": "text/javascript",
}
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
_NO_SNIFFING = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
_PAGE_HEADERS = {**_NO_SNIFFING, "Content-Security-Policy": _CONTENT_POLICY, "Cache-Control": "no-cache"}
_DATA_HEADERS = {**_NO_SNIFFING, "Cache-Control": "no-store"}
# An image is the same as long as its address is: that holds the time at which its sheet was written.
_IMAGE_HEADERS = {
    **_NO_SNIFFING,
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=3600",
}

# Descriptions of the interface would be served without login.
app = FastAPI(title="Deepshi costs", docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/", dependencies=[logged_in])
def page() -> Response:
    """Return the page, which holds no data."""
    return Response((_PAGE / "index.html").read_bytes(), media_type="text/html", headers=_PAGE_HEADERS)


@app.get("/page/{name}", dependencies=[logged_in])
def page_file(name: str) -> Response:
    """Return a style sheet or script of the page."""
    if name not in _FILES:
        raise HTTPException(404, "There is no such file")
    return Response((_PAGE / name).read_bytes(), media_type=_FILES[name], headers=_PAGE_HEADERS)


def _scope(
    reader: ReaderDep,
    start: date | None = None,
    end: date | None = None,
    dag_id: str | None = None,
    run_id: str | None = None,
) -> Scope:
    end = end or datetime.now(timezone.utc).date()
    start = start or max(date.min + timedelta(days=30), end) - timedelta(days=29)
    if run_id and not dag_id:
        raise HTTPException(422, "run_id needs dag_id")
    if not 0 <= (end - start).days < MOST_DAYS or end == date.max:
        raise HTTPException(422, f"A period has 1 to {MOST_DAYS} days")
    return Scope(dag_ids=reader.dag_ids, start=start, end=end, run=(dag_id, run_id) if dag_id and run_id else None)


ScopeDep = Annotated[Scope, Depends(_scope)]


@app.get("/data")
def data(scope: ScopeDep, response: Response, dag_id: str | None = None, model: str | None = None) -> dict[str, Any]:
    """Return all sums of a period, or of one run."""
    response.headers.update(_DATA_HEADERS)
    totals = Totals(dag_id=dag_id, model=model)
    with create_session() as session:
        totals.add_all(sheet_rows(session, scope))
    days = [] if scope.run else totals.days_as_json(scope.start, scope.end)
    return {"start": scope.start.isoformat(), "end": scope.end.isoformat(), "days": days, **totals.as_json()}


@app.get("/gallery")
def gallery(
    scope: ScopeDep,
    reader: ReaderDep,
    response: Response,
    dag_id: str | None = None,
    model: str | None = None,
    limit: Annotated[int, Query(ge=1, le=240)] = 24,
) -> dict[str, Any]:
    """Return the newest pictures of a period, or of one run."""
    response.headers.update(_DATA_HEADERS)
    with create_session() as session:
        return newest_pictures(
            session, scope, dag_id=dag_id, model=model, limit=limit, may_read_prompts=reader.may_read_prompts
        )


@app.get("/image")
def image(
    reader: ReaderDep,
    dag_id: str,
    run_id: str,
    task_id: str,
    number: int,
    map_index: int = -1,
    review: bool = False,
) -> Response:
    """Return an image that the sheet of a task instance names, or its review."""
    key = REVIEW_KEY if review else XCOM_KEY
    with create_session() as session:
        text = one_row(session, reader.dag_ids, dag_id, run_id, task_id, map_index, key)
    sheet = None if text is None else reviewed(text, number) if review else read_sheet(text)
    if sheet is None:
        what = "review" if review else "cost sheet"
        raise HTTPException(404, f"The task has no {what} that you may read", headers=_DATA_HEADERS)
    try:
        opened = open_picture(sheet, number)
    except (PictureMissingError, PictureRefusedError) as err:
        raise HTTPException(404, str(err), headers=_DATA_HEADERS) from err
    headers = {**_IMAGE_HEADERS, "Content-Length": str(opened.size_bytes)}
    return StreamingResponse(opened.pieces, media_type=opened.media_type, headers=headers)
