"""Everything that a reset brings back."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping

from .errors import ApiError
from .faults import FaultQueue
from .ledger import Ledger
from .rate_limit import TokenBucket
from .settings import Settings
from .studio import Studio


class State:
    """What the emulator knows.

    :param api_key: the one key that it takes.
    :param settings: what a reset goes back to.
    """

    def __init__(self, api_key: str, settings: Settings) -> None:
        self._api_key = api_key
        self._initial_settings = settings
        self.studio = Studio()
        self.reset()

    def reset(self) -> None:
        """Forgets what has happened and what was set; also what orders from before still make."""
        self.studio.hold(False)
        self.studio = Studio()
        self.settings = self._initial_settings
        self.ledger = Ledger()
        self.faults = FaultQueue()
        self.studio.hold(self.settings.hold)
        self.bucket = TokenBucket(self.settings.rate_limit, time.monotonic())

    def change(self, values: Mapping[str, object]) -> None:
        """Changes some settings.

        :raises ValueError: one of them cannot be; then none is changed.
        """
        self.settings = self.settings.changed(values)
        self.studio.hold(self.settings.hold)
        if "rate_limit" in values:
            self.bucket = TokenBucket(self.settings.rate_limit, time.monotonic())

    def authorize(self, authorization: str | None) -> None:
        """Checks the ``Authorization`` header.

        :raises ApiError: 401, with a message that says which of its forms it is.
        """
        if not authorization:
            raise ApiError(401, "no API key was sent", code="missing_api_key")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip().startswith("sk-bf-"):
            raise ApiError(401, "the Authorization header must be 'Bearer sk-bf-…'")
        if not hmac.compare_digest(key.strip().encode(), self._api_key.encode()):
            raise ApiError(401, "this API key is not known")
