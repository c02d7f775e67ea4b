"""The shortest program that generates an image without Airflow; docs/architecture.md shows it."""

import asyncio
import os
import time

from pydantic import SecretStr

from deepshi_provider.client.client import Client
from deepshi_provider.client.settings import Settings
from deepshi_provider.jobs.job import Job
from deepshi_provider.jobs.run import run_single
from deepshi_provider.journal.entries import Owner
from deepshi_provider.store.stores import Stores

key = SecretStr(os.environ["DEEPSHI_API_KEY"])
settings = Settings(conn_id="mine", base_url=os.environ["DEEPSHI_URL"], api_key=key)
job = Job(
    owner=Owner(dag_id="none", run_id="once", task_id="boat"),
    operation="generate",
    fields={"model": "deepshi-banana-pro", "prompt": "a red boat"},
    deadline=time.time() + 600,
    output_uri="images",
    deepshi_conn_id="mine",
)
print(asyncio.run(run_single(job, Client(settings), Stores())).images[0].uri)
