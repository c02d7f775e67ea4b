"""An agent draws with plain arguments, gets JSON, and stays within the limits of its task."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.ai.toolsets.hook import HookToolset
from airflow.sdk.execution_time.context import set_current_context
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from deepshi_provider.emulator.testing import Emulator
from deepshi_provider.exceptions import BudgetExceeded
from deepshi_provider.hooks.deepshi import DeepshiHook
from tests.support.counts import posts, taken
from tests.support.places import Place
from tests.support.tasks import TaskInstance, context_of

BOAT: dict[str, Any] = {"prompt": "a boat", "width": 64, "height": 48}


def pictures(place: Place) -> list[str]:
    return [name for name in place.names() if name.endswith(".png")]


def agent_that_draws(times: int, asked: list[AgentInfo]) -> Agent[None, str]:
    """An agent whose model requests a number of pictures, and then answers with the tools' results."""

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append(info)
        results = [part.content for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
        if len(results) == times:
            return ModelResponse(parts=[TextPart(json.dumps([json.loads(str(text)) for text in results]))])
        return ModelResponse(parts=[ToolCallPart("draw", {**BOAT, "prompt": f"boat {len(results)}"})])

    tools = HookToolset(DeepshiHook(), allowed_methods=["draw"], pinned_arguments={"max_cost_usd": 0.00001})
    return Agent(FunctionModel(model), toolsets=[tools])


def run(agent: Agent[None, str], ti: TaskInstance) -> Any:
    async def work() -> str:
        return (await agent.run("draw")).output

    with set_current_context(context_of(ti)):
        return json.loads(asyncio.run(work()))


def test_an_agent_gets_uris_and_costs_and_does_not_see_the_limit(emulator: Emulator, directory: Place) -> None:
    asked: list[AgentInfo] = []
    ti = TaskInstance(task_id="illustrator")
    first, second = run(agent_that_draws(2, asked), ti)
    (tool,) = asked[0].function_tools
    schema = tool.parameters_json_schema
    assert (set(schema["properties"]), schema["required"]) == ({"prompt", "model", "width", "height"}, ["prompt"])
    assert [image["width"] for image in first["images"] + second["images"]] == [64, 64]
    assert {f"{directory.uri}/{name}" for name in pictures(directory)} == {
        image["uri"] for image in first["images"] + second["images"]
    }
    assert Decimal(str(first["cost_usd"] + second["cost_usd"])) == taken(emulator)
    assert ti.sheets[-1].cost_usd == taken(emulator), "the page and the run's budget count it"


def test_an_agent_stops_before_it_spends_more_than_it_may(emulator: Emulator, directory: Place) -> None:
    with pytest.raises(BudgetExceeded, match="max_cost_usd"):
        run(agent_that_draws(100, []), TaskInstance(task_id="illustrator"))
    assert 0 < taken(emulator) <= Decimal("0.00001")
    assert len(pictures(directory)) == posts(emulator)
