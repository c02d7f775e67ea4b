"""The hook against the emulator: every form of an answer, many at once, large ones, and the catalog."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest

from deepshi_provider.emulator.settings import COST_FORMS, FORMS
from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    ConnectionFailed,
    DeepshiError,
    InvalidResponse,
    ServerFailed,
)
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support.hooks import Connect, LogLines
from tests.support.loops import measured_callbacks
from tests.support.servers import KEY, boat, open_files
from tests.support.waiting import wait_until

MIB = 2**20
# Besides each single form: likely combinations.
TOGETHER = [
    ["url", "no_event_line", "crlf", "multi_data", "escaped", "no_index", "bom", "no_final_blank"],
    ["whole_answer", "partial_images", "comment_no_blank", "done", "crlf", "escaped"],
    ["bare", "no_event_line", "no_index", "url", "done"],
]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("forms", [[form] for form in sorted(FORMS)] + TOGETHER, ids=" ".join)
def test_image_is_the_same_in_every_form_of_answer(
    emulator: Emulator, hook: DeepshiHook, forms: list[str], n: int, stream: bool
) -> None:
    emulator.settings(form=forms, picture_bytes=200_000)
    with hook.generate(boat(model="grok-imagine", n=n, stream=stream)) as result:
        (entry,) = emulator.requests()
        pictures = [emulator.picture(entry["id"], index) for index in range(n)]
        assert [image.sha256 for image in result.images] == [hashlib.sha256(sent).hexdigest() for sent in pictures]
        assert [image.read() for image in result.images] == pictures
        assert [image.index for image in result.images] == list(range(n))
        assert result.size == "1024x1024"
        bare = "bare" in forms and "whole_answer" not in forms
        assert result.cost_usd == (None if bare else Decimal(entry["cost_usd"]))
    assert (emulator.stats()["posts"], result.sends) == (1, 1)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("cost_form", COST_FORMS)
def test_cost_is_exact_or_unknown(emulator: Emulator, hook: DeepshiHook, cost_form: str, stream: bool) -> None:
    emulator.settings(cost_form=cost_form)
    with hook.generate(boat(stream=stream)) as result:
        charged = Decimal(emulator.requests()[0]["cost_usd"])
        assert charged == Decimal("0.000001582031")
        assert result.cost_usd == (None if cost_form == "absent" else charged)
        assert result.usage["total_tokens"] > 0


def test_request_arrives_unchanged(emulator: Emulator, hook: DeepshiHook) -> None:
    with hook.generate(boat(prompt="ein „rotes“ Boot ⛵", seed=7, guidance=2.5, width="96")) as result:
        (entry,) = emulator.requests()
    assert entry["fields"] == {
        "model": "deepshi-banana-pro",
        "prompt": "ein „rotes“ Boot ⛵",
        "width": 96,
        "height": 48,
        "seed": 7,
        "guidance": 2.5,
    }
    assert entry["user_agent"].startswith("airflow-provider-deepshi/")
    assert (result.images[0].width, result.model) == (96, "deepshi-banana-pro")


async def test_a_session_serves_many_calls_at_once(emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.settings(hold=True)
    async with hook.session() as shared:
        calls = asyncio.gather(*(shared.agenerate(boat(prompt=f"boat {at}")) for at in range(40)))
        await asyncio.to_thread(wait_until, lambda: emulator.stats()["in_flight"] == 40)
        emulator.settings(hold=False)
        results = await calls
    assert len({image.sha256 for result in results for image in result.images}) == 40
    for result in results:
        result.close()
    stats = await asyncio.to_thread(emulator.stats)
    assert (stats["posts"], stats["images"], stats["disconnects"]) == (40, 40, 0)
    assert stats["peak_in_flight"] == 40


async def _three_large_answers(hook: DeepshiHook) -> None:
    async with hook.session() as shared:
        for result in await asyncio.gather(*(shared.agenerate(boat(prompt=str(at), stream=True)) for at in range(3))):
            assert result.images[0].size_bytes == 32 * MIB
            result.close()


@pytest.mark.slow
def test_large_answers_do_not_block_the_event_loop(emulator: Emulator, hook: DeepshiHook) -> None:
    """Answers are read in pieces: no callback takes a third of the time of a whole answer."""
    emulator.settings(picture_bytes=32 * MIB)
    with measured_callbacks() as callbacks:
        asyncio.run(_three_large_answers(hook))
    assert callbacks.longest < callbacks.total / 3 / 3, callbacks


def test_nothing_stays_open(emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.settings(picture_bytes=MIB)

    def one_of_each() -> None:
        emulator.reset()
        for fault, stream in itertools.product(["cut", "broken_base64", "no_data", "truncated_image"], [False, True]):
            emulator.fault(fault, **({"at": "body"} if fault == "cut" else {}))
            with pytest.raises(DeepshiError):
                hook.generate(boat(stream=stream))
        emulator.settings(form=["partial_images"])
        with hook.generate(boat(model="grok-imagine", n=3, stream=True)):
            pass
        assert hook.test_connection()[0]

    one_of_each()  # creates objects that exist once per process, such as the TLS context
    gc.collect()
    before = open_files()
    one_of_each()
    gc.collect()  # an open file raises a ResourceWarning here, which is an error
    assert open_files() <= before, "sockets of earlier tests may have been closed meanwhile"


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_memory_stays_flat_for_a_large_image(emulator: Emulator, hook: DeepshiHook, stream: bool) -> None:
    hook.generate(boat()).close()  # imports modules and creates objects that exist once
    emulator.settings(picture_bytes=32 * MIB)
    tracemalloc.start()
    try:
        with hook.generate(boat(stream=stream)) as result:
            peak = tracemalloc.get_traced_memory()[1]
            (image,) = result.images
            assert image.size_bytes == 32 * MIB
    finally:
        tracemalloc.stop()
    sent = hashlib.sha256(emulator.picture(emulator.requests()[-1]["id"])).hexdigest()
    assert image.sha256 == sent
    assert peak < 3 * MIB, f"{peak / MIB:.1f} MiB"


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_answer_leaves_nothing_to_the_garbage_collector(hook: DeepshiHook, stream: bool) -> None:
    """In a batch it could reach an older generation and stay in memory until a full collection."""
    async with hook.session():
        (await hook.agenerate(boat(stream=stream))).close()  # creates objects that exist once
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            (await hook.agenerate(boat(stream=stream))).close()
            gc.collect()
            modules = {type(found).__module__.partition(".")[0] for found in gc.garbage}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
    assert modules.isdisjoint({"deepshi_provider", "httpx", "httpcore", "anyio", "tenacity"}), modules


@pytest.mark.parametrize("shape", ["object", "list", "allowed", "odd"])
def test_catalog_is_read_in_every_form(emulator: Emulator, hook: DeepshiHook, shape: str) -> None:
    emulator.settings(catalog_shape=shape)
    models = {model.id: model for model in hook.list_models()}
    assert len(models) >= 10
    if shape != "odd":
        banana = models["deepshi-banana-pro"]
        assert (banana.makes_images, banana.sizing, banana.prompt_max_length) == (True, ("width", "height"), 8000)
        assert banana.parameters is not None
        assert banana.parameters["output_format"].allowed == ("png", "jpeg", "webp")
        assert banana.parameters["n"].maximum == 1
        assert models["gpt-image-2"].max_input_images == 14
        assert models["deepshi-chat-large"].makes_images is False
    assert (emulator.stats()["gets"], emulator.stats()["posts"]) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ({"fault": "wrong_json"}, InvalidResponse, "The list of models is not JSON"),
        ({"fault": "html_200"}, InvalidResponse, "The list of models is not JSON"),
        ({"fault": "status", "status": 401, "message": f"no such key {KEY}"}, AuthenticationFailed, "no such key ***"),
        ({"fault": "status", "status": 500}, ServerFailed, "HTTP 500"),
        ({"fault": "status", "status": 503, "body": "html"}, ServerFailed, "HTTP 503"),
        ({"fault": "cut"}, ConnectionFailed, "does not answer"),
        ({"fault": "cut", "at": "body"}, ConnectionFailed, "does not answer"),
        ({"fault": "silence"}, ConnectionFailed, "ReadTimeout"),
    ],
    ids=str,
)
def test_failed_catalog_request_costs_nothing(
    emulator: Emulator, connect: Connect, fault: dict[str, Any], kind: type[DeepshiError], says: str
) -> None:
    hook = connect(read_timeout=0.5)
    fault = {"path": "/v1/models", "times": None, **fault}
    emulator.fault(fault.pop("fault"), **fault)
    with pytest.raises(kind) as caught:
        hook.list_models()
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert (caught.value.charged, caught.value.sends) == ("no", 0)
    ok, message = hook.test_connection()
    assert (ok, says in message, KEY in message) == (False, True, False)


def test_catalog_without_models_is_empty(emulator: Emulator, hook: DeepshiHook) -> None:
    emulator.fault("no_data", path="/v1/models")
    assert hook.list_models() == []


def test_connection_can_be_tested_for_free(
    emulator: Emulator, hook: DeepshiHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hook.test_connection() == (True, f"Connected; the key may use {len(hook.list_models())} models")
    ok, message = DeepshiHook("not_defined").test_connection()
    assert (ok, "'not_defined' is not defined" in message) == (False, True)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json().replace(KEY, "sk-bf-wrong"))
    ok, message = DeepshiHook().test_connection()
    assert (ok, "key was not accepted" in message, "sk-bf-wrong" in message) == (False, True, False)
    monkeypatch.setenv("AIRFLOW_CONN_DEEPSHI_DEFAULT", emulator.connection_json(read_timeout="soon"))
    ok, message = DeepshiHook().test_connection()
    assert (ok, "read_timeout" in message) == (False, True)
    assert (emulator.stats()["posts"], emulator.stats()["cost_usd"]) == (0, "0")


def test_key_is_in_no_log(emulator: Emulator, connect: Connect, log_lines: LogLines) -> None:
    hook = connect(max_retry_wait=0.01)
    emulator.fault("status", status=429, message=f"slow down, {KEY}")
    hook.generate(boat()).close()
    emulator.fault("status", status=400, message=f"no, {KEY}")
    with pytest.raises(DeepshiError) as caught:
        hook.generate(boat(stream=True))
    hook.log.error("failed", exc_info=caught.value)
    lines = "\n".join(log_lines())
    assert "Sending again" in lines
    assert "Traceback" in lines
    assert KEY not in f"{lines} {hook!r} {vars(hook)} {caught.value.__dict__} {caught.value.__cause__!r}"
