"""Fixtures of the engine's tests."""

from __future__ import annotations

from tests.jobs.places import local, new_place, place, s3_place, strict_s3, strict_s3_process
from tests.jobs.s3_proxy import proxy

__all__ = ["local", "new_place", "place", "proxy", "s3_place", "strict_s3", "strict_s3_process"]
