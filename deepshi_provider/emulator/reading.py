"""Reads the body of a request: JSON for generations, a form with images for edits."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import BinaryIO, NoReturn

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from .errors import ApiError, refuse
from .ledger import Entry
from .painting import shrunken

IMAGE_FIELDS = ("image", "image[]")
_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


async def read_json(request: Request, entry: Entry) -> None:
    """Read a JSON object into the journal's entry.

    :raises ApiError: the body has another content type, or is not a JSON object.
    """
    body = await request.body()
    _check_content_type(request, "application/json")
    try:
        fields = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        json.dumps(fields, ensure_ascii=False).encode()  # raises an error for unpaired surrogates
    except ValueError as error:
        raise refuse(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise refuse("the body must be a JSON object", code="invalid_json")
    entry.fields = fields


async def read_form(request: Request, entry: Entry) -> FormData:
    """Read a form's fields and descriptions of its files into the journal's entry.

    :raises ApiError: the body has another content type, or is not a form.
    """
    try:
        _check_content_type(request, "multipart/form-data")
    except ApiError:
        await request.body()
        raise
    try:
        form = await request.form()
    except HTTPException as error:
        raise refuse(f"the form cannot be read: {error.detail}", code="invalid_form") from error
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            entry.images.append(await asyncio.to_thread(_describe, name, value))
        else:
            _add_field(entry.fields, name, value)
    return form


async def check_images(form: FormData) -> tuple[int, bytes | None]:
    """Return the number of input images of the form, and the first one scaled down.

    :raises ApiError: an image does not have the content type of its part.
    """
    parts = [value for name, value in form.multi_items() if name in IMAGE_FIELDS]
    first = None
    for part in parts:
        if not isinstance(part, UploadFile):
            raise refuse("'image' must be a file part", param="image", code="invalid_image")
        small = await asyncio.to_thread(_check_image, part, want_small=first is None)
        first = first or small
    return len(parts), first


def _check_content_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != wanted:
        raise refuse(f"Content-Type must be {wanted}, not {given!r}", code="invalid_content_type")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _add_field(fields: dict[str, object], name: str, value: str) -> None:
    """Add a field; one that is sent twice becomes a list, which no documented field accepts."""
    if name not in fields:
        fields[name] = value
        return
    before = fields[name]
    fields[name] = [*before, value] if isinstance(before, list) else [before, value]


def _describe(name: str, part: UploadFile) -> dict[str, object]:
    digest, size = hashlib.sha256(), 0
    while chunk := part.file.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    part.file.seek(0)
    return {
        "field": name,
        "filename": part.filename,
        "content_type": part.content_type,
        "size_bytes": size,
        "sha256": digest.hexdigest(),
    }


def _check_image(part: UploadFile, *, want_small: bool) -> bytes | None:
    claimed = part.content_type or ""
    if claimed not in _MEDIA_TYPES.values():
        message = f"an image part must be PNG, JPEG or WebP; its content type is {claimed!r}"
        raise refuse(message, param="image", code="invalid_image")
    try:
        found = _media_type(part.file)
        small = shrunken(part.file) if want_small and found == claimed else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        message = f"{part.filename!r} is not a PNG, JPEG or WebP picture"
        raise refuse(message, param="image", code="invalid_image") from error
    if found != claimed:
        message = f"{part.filename!r} says {claimed} but its bytes are {found}"
        raise refuse(message, param="image", code="invalid_image")
    return small


def _media_type(file: BinaryIO) -> str:
    file.seek(0)
    with Image.open(file, formats=list(_MEDIA_TYPES)) as image:
        if image.format not in _MEDIA_TYPES:
            raise UnidentifiedImageError(f"{image.format} is not accepted")
        found = _MEDIA_TYPES[image.format]
    file.seek(0)
    return found
