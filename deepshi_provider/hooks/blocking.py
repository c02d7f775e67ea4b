"""Runs a coroutine in a thread without an event loop; Airflow's ``execution_timeout`` always ends it.

Airflow sends one signal, whose handler raises. If it raises in a callback of the event loop, asyncio only logs the
exception; if it raises in a task, only that task ends. In both cases the work would continue without a limit. While
a loop runs, the signal therefore only cancels the work; Airflow's handler is called when the loop has ended. The end
of the loop does not wait for its threads, in which an input image or a name lookup may hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Any, TypeVar

Result = TypeVar("Result")

_NO_TWIN = "run the DAG from a script, or with `airflow dags test`"


def run_here(work: Coroutine[Any, Any, Result], *, instead: str = _NO_TWIN) -> Result:
    """Run a coroutine and return its result.

    :param instead: for the error message: what to do if a loop is already running.
    :raises RuntimeError: a loop is already running in this thread.
    """
    if in_loop():
        work.close()
        raise RuntimeError(
            f"This cannot wait inside a running event loop, such as that of a notebook or an async task; {instead}. "
            "Nothing was sent"
        )
    alarm = _Alarm()
    # Closed, since the timeout may pass before either starts.
    with contextlib.closing(work), contextlib.closing(alarm.watched(work)) as watched, alarm:
        return asyncio.run(watched)


class _Threads(ThreadPoolExecutor):
    """The threads of ``asyncio.to_thread``; the end of the loop does not wait for them."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Start no further work."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class _Alarm:
    """Inside the ``with`` block, the timer's signal cancels the watched work; on exit, the usual handler is called."""

    def __init__(self) -> None:
        self._usual: Callable[[int, FrameType | None], Any] | None = None
        self._rang = False
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def __enter__(self) -> _Alarm:
        # Only the main thread handles signals, and Windows has no such signal.
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM"):
            usual = signal.getsignal(signal.SIGALRM)
            if callable(usual):
                self._usual = usual
                signal.signal(signal.SIGALRM, self._ring)
        return self

    async def watched(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await the work, and cancel it if the signal arrives or has arrived."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- a coroutine runs in a task
        loop = asyncio.get_running_loop()
        loop.set_default_executor(_Threads(thread_name_prefix="deepshi"))
        self._running = loop, task
        if self._rang:
            task.cancel()
        return await work

    def _ring(self, signum: int, frame: FrameType | None) -> None:
        self._rang = True
        if self._running:
            loop, task = self._running
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                loop.call_soon_threadsafe(task.cancel)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._usual is None:
            return
        signal.signal(signal.SIGALRM, self._usual)
        if self._rang:
            self._usual(signal.SIGALRM, None)


def in_loop() -> bool:
    """Return whether an event loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
