"""Reviews: the images that they show, and the decisions of people about them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import msgspec
from pydantic import ValidationError
from sqlalchemy.orm import Session

from deepshi_provider.costs.sheet import CostSheet, SheetImage
from deepshi_provider.plugins.costs.sheets import Scope, json_of, last_rows, utc
from deepshi_provider.reports.review import XCOM_KEY, Review, ReviewImage

#: Maximum number of reviews that are read to find decisions.
_MOST_REVIEWS = 1_000


class Decisions:
    """People's decisions about images, from the reviews of a period or a run."""

    def __init__(self, session: Session, scope: Scope) -> None:
        self._of: dict[str, list[tuple[datetime, ReviewImage]]] = {}
        # A review may be later than the end of the period.
        today = datetime.now(timezone.utc).date()
        reviews = replace(scope, key=XCOM_KEY, end=max(scope.end, today), task_id=None, map_index=None, word=None)
        for row in last_rows(session, reviews, _MOST_REVIEWS):
            review = read_review(row.text)
            for image in review.images if review else ():
                if image.chosen is not None:
                    self._of.setdefault(image.uri, []).append((utc(row.timestamp), image))

    def of(self, image: SheetImage, made_at: datetime) -> str | None:
        """Return ``chosen`` or ``rejected`` by the newest review since an image was made; ``None`` without one."""
        found = (seen for at, seen in self._of.get(image.uri, ()) if at >= utc(made_at))
        newest = next((seen.chosen for seen in found if seen.sha256 is None or image.is_hash(seen.sha256)), None)
        return None if newest is None else "chosen" if newest else "rejected"


def read_review(text: str) -> Review | None:
    """Return the review in an XCom's text, or ``None`` if it is not one."""
    try:
        return Review.model_validate_json(json_of(text))
    except (ValidationError, msgspec.DecodeError):
        return None


def reviewed(text: str, number: int) -> CostSheet | None:
    """Return the images of a review as a cost sheet, or ``None`` if the XCom's text is not a review.

    Images of a sheet must be in its output directory; here that is the directory of the image at ``number``.
    """
    review = read_review(text)
    if review is None:
        return None
    directory = next((image.uri.rpartition("/")[0] for image in review.images[max(0, number) :]), "")
    return CostSheet(
        ended=True,
        operation="generate",
        dag_id="",
        run_id="",
        task_id="",
        images=[
            SheetImage(uri=image.uri, media_type=image.media_type, width=0, height=0, sha256=image.sha256)
            for image in review.images
        ],
        output_uri=directory,
        output_conn_id=review.output_conn_id,
    )
