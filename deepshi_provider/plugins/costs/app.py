"""The routes of the page. All require a login; data and images also the right to read the DAG's XComs."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.responses import StreamingResponse

from deepshi_provider.costs.sheet import XCOM_KEY, CostSheet
from deepshi_provider.plugins.costs.access import Reader, ReaderDep, create_session, logged_in
from deepshi_provider.plugins.costs.details import details
from deepshi_provider.plugins.costs.gallery import newest_pictures, read_sheet
from deepshi_provider.plugins.costs.month import budgets_of, first_day, month_as_json
from deepshi_provider.plugins.costs.pictures import PictureMissingError, PictureRefusedError, open_picture
from deepshi_provider.plugins.costs.question import Question, QuestionDep, today
from deepshi_provider.plugins.costs.reviews import reviewed
from deepshi_provider.plugins.costs.sheets import SheetRow, one_row
from deepshi_provider.plugins.costs.tables import pictures_csv, table_csv
from deepshi_provider.plugins.costs.thumbnails import Thumbnails
from deepshi_provider.plugins.costs.views import Stack
from deepshi_provider.reports.review import XCOM_KEY as REVIEW_KEY

#: Maximum number of images in the gallery.
MOST_PICTURES = 240

_PAGE = resources.files("deepshi_provider.plugins.costs") / "page"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = {
    entry.name: media_type
    for entry in _PAGE.iterdir()
    for ending, media_type in _TYPES.items()
    if entry.name.endswith(ending)
}
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
_NO_SNIFFING = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
_PAGE_HEADERS = {**_NO_SNIFFING, "Content-Security-Policy": _CONTENT_POLICY, "Cache-Control": "no-cache"}
_DATA_HEADERS = {**_NO_SNIFFING, "Cache-Control": "no-store"}
# An image never changes under its address: its sheet or review has its hash.
_IMAGE_HEADERS = {
    **_NO_SNIFFING,
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=3600",
}

_thumbnails = Thumbnails()

# FastAPI would serve the API's documentation without a login.
app = FastAPI(title="Deepshi costs", docs_url=None, redoc_url=None, openapi_url=None)


@app.get("/", dependencies=[logged_in])
def page() -> Response:
    """Return the page, which holds no data."""
    return Response((_PAGE / "index.html").read_bytes(), media_type="text/html", headers=_PAGE_HEADERS)


@app.get("/page/{name}", dependencies=[logged_in])
def page_file(name: str) -> Response:
    """Return a style sheet, script or icon of the page."""
    if name not in _FILES:
        raise HTTPException(404, "The file does not exist")
    return Response((_PAGE / name).read_bytes(), media_type=_FILES[name], headers=_PAGE_HEADERS)


@app.get("/data")
def data(question: QuestionDep, response: Response, stack: Stack = "dag") -> dict[str, Any]:
    """Return all sums of a period, or of one run."""
    response.headers.update(_DATA_HEADERS)
    with create_session() as session:
        view = question.view(session)
        choices = question.labels(session, view.all_dags)
    found = view.as_json(question.tables)
    found["choices"] |= choices
    days = {"days": [], "series": []} if question.scope.run else view.days_as_json(stack)
    span = question.as_json()
    return {**span, **days, **found}


@app.get("/month")
def month(question: QuestionDep, response: Response) -> dict[str, Any]:
    """Return this month so far, its forecast, and the budgets of which the reader may see all costs."""
    response.headers.update(_DATA_HEADERS)
    now = today()
    with create_session() as session:
        view = question.view(session, (first_day(now), now))
        budgets = budgets_of(session, view, question.conn_id, question.group) if question.sees_all(view) else []
    return month_as_json(view, now, budgets)


@app.get("/gallery")
def gallery(
    question: QuestionDep,
    reader: ReaderDep,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=MOST_PICTURES)] = 24,
) -> dict[str, Any]:
    """Return the newest images of a period, or of one run."""
    response.headers.update(_DATA_HEADERS)
    return _pictures(question, reader, limit)


@app.get("/costs.csv")
def costs_csv(
    question: QuestionDep,
    reader: ReaderDep,
    table: Literal["days", "dags", "tasks", "models", "runs", "instances", "pictures"],
) -> Response:
    """Return a table of the page with all its lines as CSV."""
    if table == "pictures":
        lines = pictures_csv(_pictures(question, reader, MOST_PICTURES)["pictures"])
    else:
        with create_session() as session:
            lines = table_csv(question.view(session), table)
    name = f"deepshi-{table}-{question.name}.csv"
    headers = {**_DATA_HEADERS, "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse((line.encode("utf-8") for line in lines), media_type="text/csv", headers=headers)


@app.get("/picture")
def picture(
    reader: ReaderDep,
    response: Response,
    dag_id: str,
    run_id: str,
    task_id: str,
    number: int,
    map_index: int = -1,
) -> dict[str, Any]:
    """Return the details of one image."""
    response.headers.update(_DATA_HEADERS)
    row = _row(reader, dag_id, run_id, task_id, map_index)
    with create_session() as session:
        found = details(session, row, number, reader.may_read_prompts, reader.dag_ids) if row else None
    if found is None:
        raise HTTPException(404, "The task has no such image that you may see", headers=_DATA_HEADERS)
    return found


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
    """Return an image of a task instance's cost sheet, or of its review."""
    _, sheet = _named(reader, dag_id, run_id, task_id, map_index, number, review=review)
    try:
        opened = open_picture(sheet, number)
    except (PictureMissingError, PictureRefusedError) as err:
        raise HTTPException(404, str(err), headers=_DATA_HEADERS) from err
    headers = {**_IMAGE_HEADERS, "Content-Length": str(opened.size_bytes)}
    return StreamingResponse(opened.pieces(), media_type=opened.media_type, headers=headers)


@app.get("/thumbnail")
def thumbnail(
    reader: ReaderDep,
    dag_id: str,
    run_id: str,
    task_id: str,
    number: int,
    map_index: int = -1,
    review: bool = False,
) -> Response:
    """Return the thumbnail of the image."""
    text, sheet = _named(reader, dag_id, run_id, task_id, map_index, number, review=review)
    try:
        made = _thumbnails.get(text, sheet, number)
    except (PictureMissingError, PictureRefusedError) as err:
        raise HTTPException(404, str(err), headers=_DATA_HEADERS) from err
    return Response(made, media_type="image/webp", headers=_IMAGE_HEADERS)


def _named(
    reader: Reader, dag_id: str, run_id: str, task_id: str, map_index: int, number: int, *, review: bool
) -> tuple[str, CostSheet]:
    """Return the XCom's text and cost sheet of an image, from a task's sheet or from a review."""
    row = _row(reader, dag_id, run_id, task_id, map_index, REVIEW_KEY if review else XCOM_KEY)
    sheet = None if row is None else reviewed(row.text, number) if review else read_sheet(row.text)
    if row is None or sheet is None:
        what = "review" if review else "cost sheet"
        raise HTTPException(404, f"The task has no {what} that you may read", headers=_DATA_HEADERS)
    return row.text, sheet


def _pictures(question: Question, reader: Reader, limit: int) -> dict[str, Any]:
    with create_session() as session:
        return newest_pictures(
            session,
            question.narrow_scope(session),
            model=question.model,
            conn_id=question.conn_id,
            group=question.group,
            text=question.text,
            limit=limit,
            may_read_prompts=reader.may_read_prompts,
        )


def _row(
    reader: Reader, dag_id: str, run_id: str, task_id: str, map_index: int, key: str = XCOM_KEY
) -> SheetRow | None:
    with create_session() as session:
        return one_row(session, reader.dag_ids, dag_id, run_id, task_id, map_index, key)
