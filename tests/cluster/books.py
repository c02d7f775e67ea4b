"""The requests and costs of each picture, from server, object store and XComs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from deepshi_provider.emulator.testing import Emulator
from tests.services.airflow import Airflow
from tests.services.airflow_api import AirflowApi
from tests.services.seaweedfs import SeaweedFS
from tests.support.places import S3Place

RECORDS = ("stored", "lost", "superseded")


@dataclass
class Picture:
    """One picture of any task.

    :ivar requests: entries of the server's journal.
    :ivar claims: numbers of the attempts that have a claim.
    :ivar records: by the number of their attempt.
    """

    requests: list[dict[str, Any]] = field(default_factory=list)
    claims: set[int] = field(default_factory=set)
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def posts(self) -> int:
        return len(self.requests)

    @property
    def charges(self) -> list[Decimal]:
        """What the server charged, in USD, for each charged request."""
        return [Decimal(entry["cost_usd"]) for entry in self.requests if entry["cost_usd"]]

    @property
    def recorded(self) -> list[Decimal]:
        """The costs in the records, in USD."""
        return [Decimal(record["cost_usd"]) for record in self.records.values()]

    @property
    def lost(self) -> list[Decimal]:
        """Charges that are in no record."""
        return list((Counter(self.charges) - Counter(self.recorded)).elements())

    @property
    def unknown(self) -> int:
        """Attempts that may have been paid for and have no record."""
        return len(self.claims - self.records.keys())


class Books:
    """All pictures of one run.

    :param prefix: of the connection's ``output_uri``, in the bucket ``images``.
    :ivar pictures: by prompt, ``<task> <number>``.
    """

    def __init__(self, s3: SeaweedFS, prefix: str, deepshi: Emulator) -> None:
        self._s3 = s3.client()  # one for all: each takes a while to make
        self._prefix = prefix
        self._names = set(S3Place(s3, prefix).names())
        self.pictures: dict[str, Picture] = {}
        for entry in deepshi.requests():
            self._picture(entry["prompt"]).requests.append(entry)
        for name in self._names:
            self._enter(name)

    def __str__(self) -> str:
        pictures = self.pictures.values()
        return (
            f"{len(pictures)} pictures: {sum(p.posts for p in pictures)} requests, "
            f"{sum(len(p.charges) for p in pictures)} paid for, {sum(len(p.lost) for p in pictures)} of them lost, "
            f"{self.unknown} with unknown outcome; ${self.recorded} recorded, ${self.lost} lost"
        )

    @property
    def recorded(self) -> Decimal:
        """USD, of all pictures."""
        return sum((cost for picture in self.pictures.values() for cost in picture.recorded), Decimal(0))

    @property
    def lost(self) -> Decimal:
        """USD, of all pictures."""
        return sum((cost for picture in self.pictures.values() for cost in picture.lost), Decimal(0))

    @property
    def unknown(self) -> int:
        """Attempts of all pictures that may have been paid for and have no record."""
        return sum(picture.unknown for picture in self.pictures.values())

    def has_image(self, prompt: str) -> bool:
        """Whether the newest record's image is in the store with the recorded contents."""
        records = self.pictures[prompt].records
        stored = [k for k, record in records.items() if record["kind"] == "stored"]
        (image,) = records[max(stored)]["images"]
        name = image["uri"].partition(f"/{self._prefix}/")[2]
        return name in self._names and hashlib.sha256(self._read(name)).hexdigest() == image["sha256"]

    def _read(self, name: str) -> bytes:
        data: bytes = self._s3.get_object(Bucket="images", Key=f"{self._prefix}/{name}")["Body"].read()
        return data

    def _picture(self, prompt: str) -> Picture:
        return self.pictures.setdefault(prompt, Picture())

    def _enter(self, name: str) -> None:
        """Add a claim or a record; other files are ignored."""
        folder, _, entry = name.partition("/_deepshi/")
        words = entry.removesuffix(".json").split(".")
        if words[-1] != "claim" and words[-1] not in RECORDS:
            return
        # <dag>/<run>/<task>[/<map index>], and <key or "image">.<k>.<fingerprint>…
        task_id, *map_index = folder.split("/")[2:]
        picture = self._picture(f"{task_id} {map_index[0] if map_index else words[0]}")
        if words[-1] == "claim":
            picture.claims.add(int(words[1]))
        else:
            picture.records[int(words[1])] = json.loads(self._read(name))


def costs_in_xcom(airflow: AirflowApi, dag_id: str, run_id: str) -> Decimal:
    """Return the sum of the XComs ``cost_usd`` of all task instances that have one, in USD.

    :raises AssertionError: a task has costs that the API did not report: the sum would be none.
    """
    path = f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances/~/xcomEntries"
    entries: list[dict[str, Any]] = []
    while page := airflow.get(path, xcom_key="cost_usd", limit=100, offset=len(entries))["xcom_entries"]:
        entries += page
    costs = [airflow.xcom(dag_id, run_id, entry["task_id"], "cost_usd", entry["map_index"]) for entry in entries]
    assert None not in costs, f"{dag_id} has costs that nobody reported"
    return sum((Decimal(str(cost)) for cost in costs), Decimal(0))


def comparison(reported: Decimal, taken: Decimal) -> str:
    """Return a sentence with the reported and charged sums in USD, and their difference."""
    differ = "" if reported == taken else f" They differ by ${abs(reported - taken):f}."
    return f"Tasks say ${reported:f}, the server took ${taken:f}.{differ}"


def unknown_in_xcom(airflow: Airflow, dag_id: str, run_id: str) -> int:
    """Return the number of attempts with unknown outcome in the tasks' results."""
    return sum(
        airflow.xcom(dag_id, run_id, ti["task_id"], map_index=ti["map_index"])["unknown_outcomes"]
        for ti in airflow.task_instances(dag_id, run_id)
    )
