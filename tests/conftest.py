"""Services and environment that all tests share.

Airflow reads its environment once, when it is first imported, so its home is set here, before any test imports it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest

_HOME = tempfile.TemporaryDirectory(prefix="deepshi-tests-", ignore_cleanup_errors=True)
os.environ |= {
    # Its files, also those of killed processes, are deleted after the run; pytest's directories stay.
    "PYTEST_DEBUG_TEMPROOT": os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir()),
    "TMPDIR": _HOME.name,
    # The same for all workers of pytest-xdist.
    "DEEPSHI_TESTS_HOME": os.environ.get("DEEPSHI_TESTS_HOME", _HOME.name),
    "AIRFLOW_HOME": str(Path(_HOME.name, "airflow")),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    # No scheduler looks at the triggers that tests run themselves, so their events need not wait for it.
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "0",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}
tempfile.tempdir = _HOME.name
Path(_HOME.name).chmod(0o711)  # PostgreSQL runs as another user

#: The environment variable with the URL of the S3 server that all workers share.
_SHARED_S3 = "DEEPSHI_TESTS_S3"
#: Each takes about 500 MB.
MOST_WORKERS = 6

#: Files in which all tests are marked "airflow".
_IN_BROWSERS = frozenset({"test_page.py", "test_reviews.py"})

# A busy machine must not fail tests: no deadline, no health check for slow examples.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], max_examples=60
)
hypothesis.settings.register_profile("fast", hypothesis.settings.get_profile("any machine"), max_examples=15)
hypothesis.settings.load_profile("any machine")  # unless --hypothesis-profile names the other one

from airflow.sdk._shared.secrets_masker import reset_secrets_masker  # noqa: E402 -- after the environment

from deepshi_provider.emulator.testing import Emulator  # noqa: E402
from tests.services.authority import Authority  # noqa: E402
from tests.services.dag_runs import DagRuns  # noqa: E402
from tests.services.s3_proxy import proxy  # noqa: E402
from tests.services.seaweedfs import S3Server, SeaweedFS  # noqa: E402
from tests.support.everyday_airflow import everyday_airflow  # noqa: E402
from tests.support.hooks import connect, hook, log_lines  # noqa: E402
from tests.support.places import local, new_place, place, s3_place  # noqa: E402
from tests.support.scheduling import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: E402

__all__ = [
    "connect",
    "everyday_airflow",
    "hook",
    "local",
    "log_lines",
    "new_place",
    "place",
    "proxy",
    "pytest_collection_modifyitems",
    "pytest_xdist_make_scheduler",
    "s3_place",
]


def pytest_configure(config: pytest.Config) -> None:
    """Start one S3 server before the workers of pytest-xdist, which inherit its URL."""
    if config.getoption("numprocesses", None) and "not s3" not in config.option.markexpr:
        running = contextlib.ExitStack()
        config.add_cleanup(running.close)
        server = running.enter_context(SeaweedFS(Path(_HOME.name, "s3")))
        os.environ[_SHARED_S3] = server.endpoint_url


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker per processor for the fast tests, three more for all: most of the long ones wait for others."""
    return min(MOST_WORKERS, (os.cpu_count() or 1) + (0 if "not slow" in config.option.markexpr else 3))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no Playwright, which takes a second in each worker, if tests in a browser are left out."""
    return True if collection_path.name in _IN_BROWSERS and "not airflow" in config.option.markexpr else None


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collections, which some tests call often."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it clean up: some C libraries complain of what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificate authority of the test servers."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def emulator_process() -> Iterator[Callable[[str], Emulator]]:
    """Return one emulator process for the whole session, without latency, for ``http`` or ``https``."""
    with contextlib.ExitStack() as running:
        yield cache(lambda scheme: running.enter_context(Emulator(tls=scheme == "https")))


@pytest.fixture(scope="session")
def dag_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagRuns]:
    """One process that runs DAGs with ``dag.test()``, for the whole session."""
    with DagRuns(tmp_path_factory.mktemp("dag-runs")) as runs:
        yield runs


@pytest.fixture(autouse=True)
def forgotten_secrets() -> None:
    """Forget the secrets of earlier tests: for each new one, Airflow compiles a pattern of all that it has seen."""
    reset_secrets_masker()


@pytest.fixture
def scheme() -> str:
    """Scheme of requests to Deepshi: TLS, like the service. Tests of the transport also use plain HTTP."""
    return "https"


@pytest.fixture
def emulator(emulator_process: Callable[[str], Emulator], scheme: str, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The reset emulator, behind the connection ``deepshi_default``."""
    emulator = emulator_process(scheme)
    emulator.reset()
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json())
    return emulator


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Return the S3 server of all workers, or one for this session. Tests that stop a server start their own."""
    with contextlib.ExitStack() as running:
        if url := os.environ.get(_SHARED_S3):
            yield running.enter_context(contextlib.closing(S3Server(url)))
        else:
            yield running.enter_context(SeaweedFS(tmp_path_factory.mktemp("seaweedfs")))


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, behind the connection ``s3_test``."""
    monkeypatch.setenv("AIRFLOW_CONN_S3_TEST", s3_server.airflow_connection_json())
    return s3_server


@pytest.fixture
def images_dir(tmp_path: Path) -> Path:
    """A directory for images."""
    path = tmp_path / "images"
    path.mkdir()
    return path
