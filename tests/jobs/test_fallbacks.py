"""A fallback is sent after errors that were certainly free, and after no others."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.hooks.jobs import run_job as run
from deepshi_provider.jobs.job import Job
from deepshi_provider.jobs.outcome import ImageOutcome
from deepshi_provider.journal.lease import Times
from tests.services.forks import start_module
from tests.services.s3_proxy import S3Proxy
from tests.support.batches import batch, counts, ended, lines_of, result_of
from tests.support.calls import image_file
from tests.support.counts import error, posts, taken
from tests.support.jobs import make_job
from tests.support.killed_jobs import killed_at
from tests.support.places import LocalPlace, Place, S3Place, document, images, state
from tests.support.servers import relay_to
from tests.support.tasks import TaskInstance, execute, generate
from tests.support.waiting import until

MODELS = ["deepshi-banana-pro", "flux-2-pro", "deepshi-image-1"]
#: The prompt selects the request that an emulator's fault applies to.
PROMPTS = ["first boat", "second boat", "third boat"]
FALLBACKS = [{"model": model, "prompt": prompt} for model, prompt in zip(MODELS[1:], PROMPTS[1:], strict=True)]
QUICK = Times(lease=2, heartbeat=0.5, poll=0.1)

Fault = tuple[str, dict[str, Any]]
FREE: list[Fault] = [
    ("status", {"status": 500}),
    ("status", {"status": 503, "body": "html"}),
    ("status", {"status": 429, "retry_after": 600}),
    ("status", {"status": 403, "code": "permission_denied"}),
    ("status", {"status": 400, "code": "model_not_found"}),
    ("status", {"status": 404, "code": "model_not_found"}),
]
REFUSED: Fault = ("status", {"status": 400, "code": "content_policy_violation"})
NEVER: list[tuple[Fault, str]] = [
    (("status", {"status": 400, "code": "invalid_value"}), "InvalidRequest"),
    (("status", {"status": 401}), "AuthenticationFailed"),
    (("status", {"status": 402, "code": "insufficient_quota"}), "InsufficientQuota"),
    (REFUSED, "ContentRefused"),
    (("status", {"status": 504}), "OutcomeUnknown"),
    (("status", {"status": 524, "charged": True}), "OutcomeUnknown"),
    (("cut", {}), "OutcomeUnknown"),
    (("cut", {"at": "body", "charged": False}), "OutcomeUnknown"),
    (("no_terminal", {}), "OutcomeUnknown"),
    (("error_event", {}), "ServerFailed"),
    (("not_an_image", {}), "InvalidResponse"),
]


@pytest.fixture(autouse=True)
def no_retries(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send each request once, unless a test allows retries."""
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(max_retries=0))


def job(place: Place, **more: Any) -> Job:
    fields = {"model": MODELS[0], "prompt": PROMPTS[0], **more.pop("fields", {})}
    return make_job(place, fields=fields, fallbacks=more.pop("fallbacks", FALLBACKS), **more)


def fail(emulator: Emulator, fault: Fault, position: int, **more: Any) -> None:
    """Let a request fail in this way, and all before it with a free error."""
    for prompt in PROMPTS[:position]:
        emulator.fault("status", status=503, prompt=prompt, times=None)
    emulator.fault(fault[0], prompt=PROMPTS[position], **fault[1], **more)


def prompts(emulator: Emulator) -> list[str]:
    return [request["prompt"] for request in emulator.requests()]


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("fault", FREE, ids=str)
async def test_after_a_free_error_the_next_one_is_used(
    emulator: Emulator, local: Place, fault: Fault, position: int
) -> None:
    fail(emulator, fault, position)
    outcome = await run(job(local))
    assert (outcome.status, outcome.fallback, outcome.sends) == ("success", position, position + 2)
    assert (prompts(emulator), images(local)) == (PROMPTS[: position + 2], ["image-0.png"])
    assert outcome.costs
    assert outcome.task_cost_usd == outcome.cost_usd == taken(emulator) > 0
    assert [(entry.model, entry.cost_usd) for entry in outcome.costs.models] == [
        (MODELS[position + 1], taken(emulator))
    ]
    assert (len(state(local, "claim")), len(state(local, "record")), outcome.unknown_outcomes) == (1, 1, 0)
    assert (outcome.as_xcom()["fallback"], outcome.as_xcom()["model"]) == (position, MODELS[position + 1])
    assert [image.fallback for image in outcome.costs.images] == [position], "the sheet has it for the page"
    again = await run(job(local, owner={"try_number": 2}))
    assert (again.reused, again.fallback, again.cost_usd, posts(emulator)) == (True, position, Decimal(0), position + 2)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(("fault", "kind"), NEVER, ids=str)
async def test_after_any_other_error_nothing_else_is_sent(
    emulator: Emulator, local: Place, fault: Fault, kind: str, position: int
) -> None:
    fail(emulator, fault, position)
    outcome = await run(job(local))
    assert (error(outcome)["type"], outcome.model, outcome.sends) == (kind, MODELS[position], position + 1)
    assert (prompts(emulator), images(local)) == (PROMPTS[: position + 1], [])
    assert outcome.costs
    in_doubt = outcome.costs.unknown_outcomes + outcome.costs.untold
    assert outcome.task_cost_usd == taken(emulator) or in_doubt == 1, "what was taken is reported"


def open_for(emulator: Emulator, connections: int) -> str:
    """Return the URL of a port that relays so many connections to the emulator, and then refuses all."""
    listener = socket.create_server(("127.0.0.1", 0))
    host = f"{emulator.base_url.partition('://')[0]}://127.0.0.1:{listener.getsockname()[1]}"

    def relay() -> None:
        for number in range(connections):
            client, _ = listener.accept()
            if number == connections - 1:
                listener.close()
            with client:
                relay_to(emulator.base_url)(client)

    if connections == 0:
        listener.close()
    threading.Thread(target=relay, daemon=True).start()
    return host


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_without_a_connection_nothing_else_is_sent(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    """All of them use the same server, so the task's next try is what may help."""
    fail(emulator, REFUSED, position)
    connection = json.loads(emulator.connection_json(max_retries=0)) | {"host": open_for(emulator, position)}
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", json.dumps(connection))
    outcome = await run(job(local))
    assert (error(outcome)["type"], outcome.model, outcome.retry) == ("ConnectionFailed", MODELS[position], True)
    assert (prompts(emulator), taken(emulator), error(outcome)["charged"]) == (PROMPTS[:position], Decimal(0), "no")
    assert (images(local), state(local, "claim"), outcome.task_cost_usd) == ([], [], Decimal(0))


async def test_without_time_nothing_is_sent(emulator: Emulator, local: Place) -> None:
    """At other positions, half of the time must be left, or there is no fallback at all."""
    outcome = await run(job(local, seconds=0))
    assert (error(outcome)["type"], error(outcome)["charged"], outcome.model) == ("TimedOut", "no", MODELS[0])
    assert (posts(emulator), taken(emulator), state(local, "claim")) == (0, Decimal(0), [])


@pytest.mark.parametrize("fault", FREE, ids=str)
async def test_if_all_fail_the_error_names_each_and_nothing_was_paid(
    emulator: Emulator, local: Place, fault: Fault
) -> None:
    fail(emulator, fault, 2)
    outcome = await run(job(local))
    before = f"These failed before, at no cost: {MODELS[0]}: ServerFailed; {MODELS[1]}: ServerFailed"
    assert before in error(outcome)["message"]
    assert (error(outcome)["charged"], outcome.retry) == ("no", True), "the first ones may serve later"
    assert (posts(emulator), taken(emulator), outcome.sends, state(local, "claim")) == (3, Decimal(0), 3, [])


@pytest.mark.parametrize("position", [0, 1])
async def test_a_refused_prompt_falls_back_only_if_the_user_wants_it(
    emulator: Emulator, local: Place, position: int
) -> None:
    fail(emulator, REFUSED, position)
    outcome = await run(job(local, fallback_on_refusal=True))
    assert (outcome.status, outcome.fallback, posts(emulator)) == ("success", position, position + 2)


async def test_retries_come_before_a_fallback(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = emulator.connection_json(max_retries=2, max_retry_wait=0.01)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    emulator.fault("status", status=500, prompt=PROMPTS[0], times=None)
    outcome = await run(job(local))
    assert (outcome.sends, outcome.fallback, prompts(emulator)) == (4, 0, [*[PROMPTS[0]] * 3, PROMPTS[1]])


@pytest.mark.parametrize(("max_resends", "kind"), [(1, None), (0, "ResendsExhausted")])
async def test_the_next_try_starts_with_the_request_that_may_have_been_paid_for(
    emulator: Emulator, local: Place, max_resends: int, kind: str | None
) -> None:
    fail(emulator, ("cut", {}), 1)
    await run(job(local, max_resends=max_resends))
    emulator.clear_faults()
    outcome = await run(job(local, max_resends=max_resends, owner={"try_number": 2}))
    assert outcome.costs
    assert outcome.costs.unknown_outcomes == 1
    if kind:
        assert (error(outcome)["type"], prompts(emulator)) == (kind, PROMPTS[:2])
    else:
        assert (outcome.fallback, outcome.unknown_outcomes) == (0, 1)
        assert prompts(emulator) == [*PROMPTS[:2], PROMPTS[1]]


async def test_a_free_error_after_an_unknown_outcome_is_no_reason_to_fall_back(
    emulator: Emulator, local: Place
) -> None:
    emulator.fault("cut", prompt=PROMPTS[0])
    await run(job(local))
    emulator.fault("status", status=503, prompt=PROMPTS[0])
    outcome = await run(job(local, owner={"try_number": 2}))
    assert (error(outcome)["type"], prompts(emulator)) == ("ServerFailed", [PROMPTS[0]] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("position", [0, 1])
async def test_a_killed_process_leaves_no_unknown_second_picture(
    emulator: Emulator, local: Place, position: int
) -> None:
    """At 1, the first request has failed for free: its claim is removed before the second is created."""
    fail(emulator, ("silence", {"charged": True}), position)
    process = start_module("tests.support.run_job", job(local).model_dump_json())
    await until("the request", lambda: posts(emulator) == position + 1)
    (claim,) = state(local, "claim")
    assert document(local, claim)["model"] == MODELS[position]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    emulator.clear_faults()
    outcome: ImageOutcome = await run(job(local, owner={"try_number": 2}), times=QUICK)
    assert (outcome.status, outcome.unknown_outcomes) == ("success", 1)
    assert outcome.fallback == (position - 1 if position else None)
    assert prompts(emulator) == [*PROMPTS[: position + 1], PROMPTS[position]]
    assert outcome.costs
    paid, doubt = outcome.costs.cost_usd, outcome.costs.may_have_cost_usd
    assert (outcome.costs.unknown_outcomes, paid, doubt) == (1, outcome.cost_usd, outcome.cost_usd)
    assert paid
    assert taken(emulator) in (paid, 2 * paid)


@pytest.mark.slow
async def test_every_paid_picture_is_counted_wherever_a_process_dies(emulator: Emulator, tmp_path: Path) -> None:
    """It is killed before each change of the directory in turn, including those between the two requests."""
    between = 0
    for at in itertools.count(1):
        emulator.reset()
        fail(emulator, ("status", {"status": 503}), 0, times=None)
        place = LocalPlace(tmp_path / str(at))
        if not await asyncio.to_thread(killed_at, at, job(place), place):
            break
        between += prompts(emulator) == PROMPTS[:1]
        outcome = await run(job(place, owner={"try_number": 2}), times=Times(lease=0.3, heartbeat=0.1, poll=0.05))
        if outcome.status == "failed":  # the first request's claim still exists and has priority
            assert (error(outcome)["type"], outcome.unknown_outcomes) == ("ServerFailed", 1)
        assert outcome.costs
        paid, doubt = outcome.costs.cost_usd, outcome.costs.may_have_cost_usd
        assert paid is not None
        assert paid <= taken(emulator), f"killed before change {at}"
        assert doubt is None or taken(emulator) <= paid + doubt, f"killed before change {at}"
        bought = sum(request["cost_usd"] is not None for request in emulator.requests())
        assert bought - 1 <= outcome.costs.unknown_outcomes, f"killed before change {at}"
    assert at > 5
    assert between > 0


@pytest.mark.slow
async def test_a_second_process_waits_for_the_fallback_of_the_first(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=503, prompt=PROMPTS[0])
    emulator.settings(hold=True)
    first = asyncio.create_task(run(job(local), times=QUICK))
    await until("the fallback", lambda: prompts(emulator) == PROMPTS[:2] or posts(emulator) == 2)
    second = asyncio.create_task(run(job(local), times=QUICK))
    await asyncio.sleep(1)  # otherwise it would already have sent the first request, which the server accepts now
    assert posts(emulator) == 2
    emulator.settings(hold=False)
    outcomes = await asyncio.gather(first, second)
    assert [(outcome.status, outcome.fallback) for outcome in outcomes] == [("success", 0)] * 2
    assert posts(emulator) == 2


async def test_preflight_checks_all_before_the_first_is_sent(emulator: Emulator, local: Place) -> None:
    wrong = [{"model": "flux-2-pro"}, {"model": "nano-banana-2"}]
    outcome = await run(job(local, fallbacks=wrong, preflight="error"))
    expected = "fallbacks[1]: width is 64, but nano-banana-2 is sized by aspect_ratio and resolution"
    assert (error(outcome)["type"], expected in error(outcome)["message"]) == ("PreflightFailed", True)
    right = [wrong[0], {"model": "nano-banana-2", "width": None, "height": None, "aspect_ratio": "4:3"}]
    assert (await run(job(local, fallbacks=right, preflight="error"))).fallback is None
    assert posts(emulator) == 1
    unlisted = await run(job(local, fallbacks=[{"model": "flux-3"}], preflight="error", owner={"run_id": "b"}))
    assert unlisted.reused


async def test_a_model_that_the_key_may_not_use_is_not_sent(emulator: Emulator, local: Place) -> None:
    outcome = await run(job(local, fields={"model": "not-yours"}, preflight="error"))
    assert (outcome.fallback, prompts(emulator), outcome.sends) == (0, [PROMPTS[1]], 1)
    typo = await run(job(local, fallbacks=[{"model": "not-yours"}], fields={"seed": 2}, preflight="error"))
    assert "fallbacks[0]: model is not-yours, which is not in the catalog" in error(typo)["message"]
    assert posts(emulator) == 1


async def test_an_edit_falls_back_with_its_images(emulator: Emulator, local: Place, tmp_path: Path) -> None:
    file = tmp_path / "in.png"
    file.write_bytes(image_file("png"))
    emulator.fault("status", status=503)
    fields = {"model": "deepshi-image-1", "images": [str(file)]}
    outcome = await run(job(local, operation="edit", fields=fields, fallbacks=[{"model": "flux-2-pro"}]))
    assert (outcome.status, outcome.fallback, posts(emulator)) == ("success", 0, 2)


async def test_a_budget_counts_the_price_of_the_request_that_is_sent(emulator: Emulator, local: Place) -> None:
    free = await run(job(local, fields={"seed": 1}, owner={"run_id": "a"}))
    emulator.fault("status", status=503, prompt=PROMPTS[0])
    outcome = await run(job(local, owner={"run_id": "b"}, max_cost_usd=free.cost_usd))
    assert outcome.fallback == 0
    assert posts(emulator) == 3


BAD: list[tuple[Any, str]] = [
    ([{"modle": "flux-2-pro"}], "fallbacks[0]: 'modle' is not a field; .* Did you mean model?"),
    (["flux-2-pro"], "fallbacks[0]: a dictionary of fields is needed, got str"),
    ([{}, {"n": "many"}], "fallbacks[1]: The request was not sent: n: a whole number is needed"),
    ([{"extra_params": {"width": 3}}], "fallbacks[0]: extra_params names fields of their own: width"),
    ([{"extra_params": '{"stream": true}'}], "fallbacks[0]: extra_params names fields of their own: stream"),
    ([{"extra_params": "negative"}], "fallbacks[0]: extra_params is not a JSON object"),
    ([{"images": ["a.png"]}], "fallbacks[0]: a fallback cannot have images"),
    ("flux", "fallbacks: the rendered text is neither JSON nor a Python literal"),
]


@pytest.mark.parametrize(("fallbacks", "says"), BAD, ids=str)
def test_an_invalid_fallback_is_refused_at_the_start(
    emulator: Emulator, local: Place, fallbacks: Any, says: str
) -> None:
    pattern = says.replace("[", r"\[").replace("]", r"\]").replace("?", r"\?")
    with pytest.raises(Exception, match=pattern):
        execute(generate(output_uri=local.uri, fallbacks=fallbacks), TaskInstance(task_id="boat"))
    assert posts(emulator) == 0


def test_fallbacks_are_templates_and_may_have_extra_params(emulator: Emulator, local: Place) -> None:
    emulator.fault("status", status=503)
    fallback = {"model": "{{ params.other }}", "extra_params": {"style": "ink"}, "width": 32}
    ti = TaskInstance(task_id="boat")
    value = execute(generate(output_uri=local.uri, fallbacks=[fallback]), ti, {"other": "flux-2-pro"})
    sent = emulator.requests()[-1]["fields"]
    assert (sent["model"], sent["style"], sent["width"], sent["height"]) == ("flux-2-pro", "ink", 32, 48)
    assert (value["fallback"], value["model"], value["size"]) == (0, "flux-2-pro", "32x48")


def test_rows_of_a_batch_fall_back_one_by_one(emulator: Emulator, local: Place) -> None:
    rows = [{"key": "a", "prompt": "a cup"}, {"key": "b", "prompt": "a jug"}, {"key": "c", "prompt": "a pot"}]
    emulator.fault("status", status=503, prompt="a jug")
    emulator.fault("cut", prompt="a pot", charged=False)
    fields: dict[str, Any] = {"model": MODELS[0], "fallbacks": [{"model": MODELS[1]}], "max_resends": 0}
    tried, failed = ended(batch(local, rows, **fields))
    assert "1 of 3 rows failed (c: OutcomeUnknown)" in str(failed)
    assert [line["model"] for line in lines_of(local)][:2] == MODELS[:2]
    assert [(image.key, image.fallback) for image in tried.sheets[-1].images] == [("a", None), ("b", 0)]
    assert posts(emulator) == 4
    value = result_of(batch(local, rows, **fields, on_error="partial"), try_number=2)
    assert (counts(value), posts(emulator)) == ((2, 0, 1, 0), 4)


@pytest.mark.slow
def test_a_row_that_the_rate_limit_always_refuses_falls_back_after_its_retries(
    emulator: Emulator, local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = emulator.connection_json(max_retries=2, max_retry_wait=0.05)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", connection)
    emulator.fault("status", status=429, prompt="a jug", times=None)
    emulator.fault("status", status=429, prompt="a mug", times=None)
    rows = [{"key": "jug", "prompt": "a jug"}, {"key": "cup", "prompt": "a cup"}]
    fallbacks = [{"model": MODELS[1], "prompt": "a mug"}, {"model": MODELS[1], "prompt": "a pot"}]
    value = result_of(batch(local, rows, fallbacks=fallbacks))
    assert counts(value) == (2, 0, 0, 0)
    assert {line["key"]: (line["fallback"], line["prompt"]) for line in lines_of(local)} == {
        "jug": (1, "a pot"),
        "cup": (None, "a cup"),
    }
    assert sorted(prompts(emulator)) == ["a cup", *["a jug"] * 3, *["a mug"] * 3, "a pot"]
    assert Decimal(str(value["cost_usd"])) == taken(emulator)


@pytest.mark.slow
async def test_no_fallback_is_sent_with_too_little_time_for_its_answer(emulator: Emulator, local: Place) -> None:
    """It would be cut off after it was paid for; the next try has all its time."""
    emulator.fault("status", status=503, prompt=PROMPTS[0], delay=3)
    emulator.settings(latency=2)
    outcome = await run(job(local, seconds=4))
    assert (error(outcome)["type"], error(outcome)["charged"], outcome.retry) == ("ServerFailed", "no", True)
    assert (prompts(emulator), taken(emulator), state(local, "claim")) == (PROMPTS[:1], Decimal(0), [])
    again = await run(job(local, owner={"try_number": 2}))
    assert (again.status, again.fallback, again.cost_usd) == ("success", None, taken(emulator))


def test_the_manifest_shows_which_request_was_used_for_each_row(emulator: Emulator, local: Place) -> None:
    """Also in the next run; the fields of the line are those of that request."""
    emulator.fault("status", status=503, prompt="a jug", times=None)
    rows = [{"key": "cup", "prompt": "a cup"}, {"key": "jug", "prompt": "a jug"}]
    other = {"model": "nano-banana-2", "width": None, "height": None, "aspect_ratio": "4:3", "prompt": "a jar"}
    fields: dict[str, Any] = {"width": 64, "height": 48, "fallbacks": [{"model": "flux-2-pro"}, other]}
    for owner in ({}, {"run_id": "tuesday"}):
        value = result_of(batch(local, rows, on_mismatch="fail", **fields), **owner)
        manifest = local.read(value["manifest_uri"].rpartition("/")[2])
        lines = {line["key"]: line for line in map(json.loads, manifest.splitlines())}
        assert [lines[key]["fallback"] for key in ("cup", "jug")] == [None, 1]
        assert (lines["jug"]["model"], lines["jug"]["size_asked"], lines["jug"]["prompt"]) == (
            "nano-banana-2",
            "4:3",
            "a jar",
        )
        assert (value["warnings"], value["failed"]) == ([], 0), "what came is what that one asked for"


@pytest.mark.s3
@pytest.mark.slow
async def test_two_processes_do_not_send_two_fallbacks_of_one_job(
    emulator: Emulator, s3_place: S3Place, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was refused and goes on to its fallback, while the second has sent the request that was refused."""
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(max_retries=0))
    fallbacks = [{"model": "flux-2-pro", "prompt": "another boat"}]
    emulator.fault("status", status=503, delay=2, times=1)
    first = asyncio.create_task(run(make_job(s3_place, output_conn_id=proxy.conn_id, fallbacks=fallbacks)))
    await until("the first request", lambda: posts(emulator) == 1)
    proxy.held = r"^PUT .*claim\.json(\?|$)"
    await until("the fallback's claim", lambda: proxy.held_requests() == 2)
    emulator.settings(latency=4)
    second = asyncio.create_task(run(make_job(s3_place, owner={"run_id": "tuesday"}, fallbacks=fallbacks)))
    await until("the second request", lambda: posts(emulator) == 2)
    proxy.released.set()
    outcomes = await asyncio.gather(first, second)
    assert [outcome.status for outcome in outcomes] == ["success", "success"]
    assert outcomes[0].images == outcomes[1].images
    assert posts(emulator) == 2
