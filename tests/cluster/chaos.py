"""Kills parts of a running cluster at random, and starts them again."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter

from tests.services.airflow_cluster import AirflowCluster
from tests.services.processes import Process
from tests.services.redis import Redis

log = logging.getLogger(__name__)

#: How often a process of each kind is killed.
DEATHS = {"worker": 4, "triggerer": 4, "scheduler": 3, "redis": 3}
#: Seconds between a start and the next death.
PAUSE = (3.0, 9.0)
#: Seconds until a supervisor notices.
DOWN = (0.5, 4.0)


class Chaos:
    """The same seed kills the same kinds in the same order, at the same distances.

    :ivar deaths: How many there were, by kind.
    """

    def __init__(self, cluster: AirflowCluster, redis: Redis, seed: int) -> None:
        self.deaths: Counter[str] = Counter()
        self._cluster = cluster
        self._redis = redis
        self._random = random.Random(seed)
        self._plan = [kind for kind, count in DEATHS.items() for _ in range(count)]
        self._random.shuffle(self._plan)

    def run(self) -> None:
        """Kill all that is planned."""
        for kind in self._plan:
            self._supervise(self._random.uniform(*PAUSE))
            victim = self._random.choice(self._of_kind(kind))
            log.info("killing %s", victim.name)
            victim.kill_hard()
            self.deaths[kind] += 1
            time.sleep(self._random.uniform(*DOWN))
            self.supervise()

    def supervise(self) -> None:
        """Start what is not running: what was killed, and what could not start without another part."""
        if self._redis.process.exit_code is not None:
            self._redis.process.start_again()
        self._cluster.start_what_ended()

    def _supervise(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 1))
            self.supervise()

    def _of_kind(self, kind: str) -> list[Process]:
        everything = [*self._cluster.processes, self._redis.process]
        return [process for process in everything if process.name.startswith(kind)]
