"""Counts, charges after a disconnect, settings, and the process itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from deepshi_provider.emulator.testing import Emulator
from tests.support.calls import (
    BOAT,
    GENERATIONS,
    STREAMED_BOAT,
    raw_post,
)
from tests.support.waiting import wait_until

NOTHING = {
    "posts": 0,
    "gets": 0,
    "by_path": {},
    "by_status": {},
    "charged_requests": 0,
    "images": 0,
    "cost_usd": "0",
    "in_flight": 0,
    "peak_in_flight": 0,
    "disconnects": 0,
}


def test_calls_are_counted(emulator: Emulator, client: httpx.Client) -> None:
    assert emulator.stats() == NOTHING
    client.get("/v1/models")
    client.post(GENERATIONS, json=BOAT)
    client.post(GENERATIONS, json={**BOAT, "n": 3})
    assert emulator.stats() == {
        "posts": 2,
        "gets": 1,
        "by_path": {"/v1/models": 1, GENERATIONS: 2},
        "by_status": {"200": 2, "400": 1},
        "charged_requests": 1,
        "images": 1,
        "cost_usd": "0.000001582031",
        "in_flight": 0,
        "peak_in_flight": 1,
        "disconnects": 0,
    }


def test_journal_has_the_whole_request(emulator: Emulator, client: httpx.Client) -> None:
    before = time.time()
    answer = client.post(GENERATIONS, json={**BOAT, "mood": {"calm": 1}}, headers={"user-agent": "me"})
    (entry,) = emulator.requests()
    received, finished = entry.pop("received_at"), entry.pop("finished_at")
    assert before <= received <= finished <= time.time()
    assert entry == {
        "id": answer.headers["x-request-id"],
        "path": GENERATIONS,
        "model": "deepshi-banana-pro",
        "prompt": "a red boat",
        "n": 1,
        "stream": False,
        "fields": {**BOAT, "mood": {"calm": 1}},
        "images": [],
        "status": 200,
        "outcome": "delivered",
        "cost_usd": "0.000001582031",
        "fault": None,
        "user_agent": "me",
    }


@pytest.mark.slow
@pytest.mark.parametrize("request_fields", [BOAT, STREAMED_BOAT])
def test_work_is_billed_after_its_client_has_gone(emulator: Emulator, request_fields: dict[str, Any]) -> None:
    emulator.settings(hold=True)
    connection = raw_post(emulator, request_fields)
    wait_until(lambda: emulator.stats()["in_flight"] == 1)
    (entry,) = emulator.requests()
    assert (entry["outcome"], entry["finished_at"]) == ("in_flight", None)
    connection.close()
    wait_until(lambda: emulator.stats()["disconnects"] == 1)
    (entry,) = emulator.requests()
    assert (entry["outcome"], entry["cost_usd"]) == ("disconnected", None)
    assert emulator.stats()["in_flight"] == 0
    emulator.settings(hold=False)
    wait_until(lambda: emulator.stats()["charged_requests"] == 1)
    (entry,) = emulator.requests()
    assert (entry["outcome"], entry["cost_usd"]) == ("disconnected", "0.000001582031")
    assert emulator.picture(entry["id"]).startswith(b"\x89PNG")


def test_client_that_leaves_before_it_has_sent_everything_pays_nothing(emulator: Emulator) -> None:
    connection = raw_post(emulator, {**BOAT, "prompt": "x" * 4_000}, missing_bytes=10)
    wait_until(lambda: emulator.stats()["in_flight"] == 1)
    connection.close()
    wait_until(lambda: emulator.stats()["disconnects"] == 1)
    (entry,) = emulator.requests()
    assert (entry["outcome"], entry["status"], entry["cost_usd"]) == ("disconnected", None, None)


@pytest.mark.slow
def test_client_that_leaves_with_the_whole_body_is_served(emulator: Emulator) -> None:
    emulator.fault("slow", bytes_per_second=1000)
    connection = raw_post(emulator, STREAMED_BOAT)
    received = b""
    while b"\n\n" not in received.partition(b".completed")[2]:
        received += connection.recv(1 << 16)
    connection.close()
    wait_until(lambda: emulator.stats()["in_flight"] == 0)
    (entry,) = emulator.requests()
    assert (entry["outcome"], emulator.stats()["disconnects"]) == ("delivered", 0)


def test_client_that_leaves_in_the_middle_of_the_body_is_noticed(emulator: Emulator) -> None:
    emulator.settings(picture_bytes=64 << 20)
    connection = raw_post(emulator, STREAMED_BOAT)
    received = 0
    while received < 1 << 20:
        received += len(connection.recv(1 << 16))
    connection.close()
    wait_until(lambda: emulator.stats()["disconnects"] == 1)
    (entry,) = emulator.requests()
    assert entry["outcome"] == "disconnected"
    assert entry["cost_usd"] is not None


def test_reset_clears_and_late_work_is_not_charged_to_the_new_ledger(emulator: Emulator) -> None:
    emulator.settings(latency=0.2, catalog_shape="odd")
    emulator.fault("status", status=500, path="edits")
    with raw_post(emulator, BOAT) as connection:
        wait_until(lambda: emulator.stats()["in_flight"] == 1)
        emulator.reset()
        assert b"200 OK" in connection.recv(65536)
    assert emulator.stats() == NOTHING
    assert emulator.requests() == []


def test_late_work_takes_no_picture_from_what_comes_after_a_reset(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(latency=0.2)
    with raw_post(emulator, BOAT) as connection:
        wait_until(lambda: emulator.stats()["in_flight"] == 1)
        emulator.reset()
        ids = [client.post(GENERATIONS, json=BOAT).headers["x-request-id"] for _ in range(64)]
        assert b"200 OK" in connection.recv(65536)
    assert emulator.picture(ids[0]).startswith(b"\x89PNG")


@pytest.mark.slow
def test_requests_in_flight_are_counted_at_once(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(latency=[0.2, 0.3])
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.post(GENERATIONS, json=BOAT), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    stats = emulator.stats()
    assert stats["peak_in_flight"] >= 10
    assert (stats["in_flight"], stats["images"]) == (0, 20)


WRONG_SETTINGS: list[dict[str, Any]] = [
    {"speed": 1},
    {"latency": -1},
    {"latency": "fast"},
    {"latency": [1]},
    {"hold": 1},
    {"keepalive": 0},
    {"picture_bytes": 1.5},
    {"picture_bytes": (64 << 20) + 1},
    {"piece_bytes": 0},
    {"rate_limit": 0},
    {"form": ["sonnet"]},
    {"form": 5},
    {"cost_form": "cheque"},
    {"catalog_shape": "round"},
]


@pytest.mark.parametrize("settings", WRONG_SETTINGS)
def test_wrong_setting_changes_nothing(emulator: Emulator, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="PUT /emulator/settings"):
        emulator.settings(**{"picture_bytes": 1_000, **settings})
    answer = httpx.put(f"{emulator.base_url}/emulator/settings", json={}, trust_env=False)
    assert answer.json() == {
        "latency": 0,
        "hold": False,
        "keepalive": 1,
        "picture_bytes": None,
        "piece_bytes": None,
        "rate_limit": None,
        "form": [],
        "cost_form": "object",
        "catalog_shape": "object",
    }


def test_last_64_requests_keep_their_pictures(emulator: Emulator, client: httpx.Client) -> None:
    ids = [client.post(GENERATIONS, json=BOAT).headers["x-request-id"] for _ in range(65)]
    assert emulator.picture(ids[1]).startswith(b"\x89PNG")
    for path in (f"{ids[0]}/0", f"{ids[1]}/1", "req_nothing/0"):
        assert client.get(f"/emulator/pictures/{path}").status_code == 404


def test_connection_is_airflows_json(emulator: Emulator) -> None:
    assert json.loads(emulator.connection_json(output_uri="file:///tmp/x", max_retries=0)) == {
        "conn_type": "deepshi",
        "host": emulator.base_url,
        "password": emulator.api_key,
        "extra": {"output_uri": "file:///tmp/x", "max_retries": 0},
    }
    assert "extra" not in json.loads(emulator.connection_json())


def test_log_has_one_line_per_request_and_never_the_key(emulator: Emulator, client: httpx.Client) -> None:
    answer = client.post(GENERATIONS, json=BOAT)
    request_id = answer.headers["x-request-id"]
    wait_until(lambda: request_id in emulator.log())
    (line,) = (line for line in emulator.log().splitlines() if request_id in line)
    assert line.startswith(f"POST {GENERATIONS} 200 ")
    assert emulator.api_key not in emulator.log()
    assert "Traceback" not in emulator.log()


@pytest.mark.slow
def test_help_names_every_option() -> None:
    command = [sys.executable, "-m", "deepshi_provider.emulator"]
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    for option in ("--port", "--latency", "--api-key", "8710", "sk-bf-emulator"):
        assert option in help_text.stdout
    wrong = subprocess.run([*command, "--latency", "-1"], capture_output=True, text=True)
    assert wrong.returncode == 2


@pytest.mark.slow
def test_ready_lines_name_address_key_and_connection() -> None:
    arguments = ["--port", "0", "--api-key", "sk-bf-mine"]
    command = [sys.executable, "-m", "deepshi_provider.emulator", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        ready, hint = process.stdout.readline(), process.stdout.readline()
        process.terminate()
        assert process.wait(10) in (0, -15)
    host = ready.split(" at ")[1].split(" ")[0]
    assert ready == f"Deepshi emulator at {host} (API key sk-bf-mine)\n"
    name, _, value = hint.strip().partition("=")
    assert name == "AIRFLOW_CONN_DEEPSHI_DEFAULT"
    connection = {"conn_type": "deepshi", "host": host, "password": "sk-bf-mine"}
    assert json.loads(value.strip("'")) == connection


@pytest.mark.slow
def test_emulator_ends_with_its_block_and_reports_why_it_did_not_start(emulator: Emulator) -> None:
    with Emulator(api_key="sk-bf-second") as second:
        assert second.stats() == NOTHING
        assert second.base_url != emulator.base_url
    with pytest.raises(httpx.ConnectError):
        httpx.get(second.base_url, trust_env=False)
    port = int(emulator.base_url.rsplit(":", 1)[1])
    with pytest.raises(RuntimeError, match="address already in use"), Emulator(port=port):
        pass


def test_held_pictures_are_sent_together(emulator: Emulator, client: httpx.Client) -> None:
    emulator.settings(hold=True)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(client.post, GENERATIONS, json=BOAT) for _ in range(4)]
        wait_until(lambda: emulator.stats()["in_flight"] == 4)
        assert emulator.stats()["images"] == 0
        emulator.settings(hold=False)
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert emulator.stats()["images"] == 4
