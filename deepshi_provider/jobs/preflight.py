"""Ask the catalog, which is free, before a request that is not."""

from __future__ import annotations

import logging

from deepshi_provider.api.catalog import complaints
from deepshi_provider.api.requests import GenerateRequest
from deepshi_provider.exceptions import DeepshiError, PreflightFailed
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.jobs.job import PreflightMode

log = logging.getLogger(__name__)


async def preflight(hook: DeepshiHook, request: GenerateRequest, mode: PreflightMode) -> None:
    """Complain about a request by what the catalog says of its model.

    What the catalog does not tell, or this provider does not understand, is let through; so is a model that is not in
    it, and a catalog that cannot be had.

    :raises PreflightFailed: the mode is ``error`` and there is a complaint.
    """
    if mode == "off":
        return
    try:
        models = await hook.alist_models()
    except DeepshiError as err:
        log.warning("The catalog could not be read, so the request goes unchecked: %s", err)
        return
    model = next((model for model in models if model.id == request.model), None)
    found = complaints(request, model) if model else []
    if found and mode == "error":
        raise PreflightFailed("The request was not sent: " + "; ".join(found))
    for complaint in found:
        log.warning("Preflight: %s", complaint)
