"""The emulator's state, which a reset restores."""

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
    """The state of the emulator.

    :param api_key: the only valid key.
    :param settings: the settings that a reset restores.
    """

    def __init__(self, api_key: str, settings: Settings) -> None:
        self._api_key = api_key
        self._initial_settings = settings
        self.studio = Studio()
        self.reset()

    def reset(self) -> None:
        """Restore the initial state; orders from before no longer appear in it."""
        self.studio.hold(False)
        self.studio = Studio()
        self.settings = self._initial_settings
        self.ledger = Ledger()
        self.faults = FaultQueue()
        self.studio.hold(self.settings.hold)
        self.bucket = TokenBucket(self.settings.rate_limit, time.monotonic())

    def change(self, values: Mapping[str, object]) -> None:
        """Change some settings.

        :raises ValueError: one of them is invalid; then none is changed.
        """
        self.settings = self.settings.changed(values)
        self.studio.hold(self.settings.hold)
        if "rate_limit" in values:
            self.bucket = TokenBucket(self.settings.rate_limit, time.monotonic())

    def authorize(self, authorization: str | None) -> None:
        """Check the ``Authorization`` header.

        :raises ApiError: 401, with a message for each kind of problem.
        """
        if not authorization:
            raise ApiError(401, "no API key was sent", code="missing_api_key")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip().startswith("sk-bf-"):
            raise ApiError(401, "the Authorization header must be 'Bearer sk-bf-…'")
        if not hmac.compare_digest(key.strip().encode(), self._api_key.encode()):
            raise ApiError(401, "this API key is unknown")
