"""One emulator process for all tests of this folder, reset before each test."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from deepshi_provider.emulator.testing import Emulator


@pytest.fixture(scope="session")
def emulator_process() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(emulator_process: Emulator) -> Emulator:
    emulator_process.reset()
    return emulator_process


@pytest.fixture(scope="session")
def client_of_all_tests(emulator_process: Emulator) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {emulator_process.api_key}"}
    url = emulator_process.base_url
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def client(emulator: Emulator, client_of_all_tests: httpx.Client) -> httpx.Client:
    return client_of_all_tests
