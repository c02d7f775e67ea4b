"""Jobs in processes that kill themselves at one of their changes to the output directory.

Each file that is created, linked, renamed or removed there is a change. Changes count from 1; the process dies before
the given one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import Any

from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from tests.services.forks import fork_server
from tests.support.places import LocalPlace

_CHANGES = frozenset({"os.link", "os.remove", "os.rename", "os.mkdir"})


def killed_at(number: int, job: Job, place: LocalPlace) -> bool:
    """Run a job, and return whether it was killed; it is not if it makes fewer changes."""
    arguments = (number, job.model_dump_json(), str(place.path), os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"])
    process = fork_server().Process(target=_run, args=arguments)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _run(number: int, job: str, directory: str, connection: str) -> None:
    os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"] = connection
    changes = itertools.count(1)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        is_here = any(directory in str(argument) for argument in arguments)
        if (writes or event in _CHANGES) and is_here and next(changes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    asyncio.run(run(Job.model_validate_json(job)))
