"""Assistants over gRPC: made, versioned, used by runs, and nobody else's."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.assistant_pb2 import Assistant, RunConfig, RunLimits

from services.agent.core.caps import Caps
from tests.service.agent_app import App, User, broken_fields, mesh, refusal
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = RunConfig(
    model="tiny", system_prompt="Be brief.", tools=["run_python"], limits=RunLimits(step_count=3)
)
MISSING = (grpc.StatusCode.NOT_FOUND, "ASSISTANT_NOT_FOUND")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(module_database: Database) -> AsyncIterator[App]:
    async with mesh(module_database("agent")) as around, around.replica(caps=Caps(assistants=5)) as running:
        yield running


async def call(user: User, method: str, request: Any) -> Any:
    return await getattr(user.stub, method)(request, **user.options)


async def create(user: User, config: RunConfig = CONFIG, **more: str) -> Assistant:
    request = pb.CreateAssistantRequest(**{"display_name": "helper", **more}, config=config)
    made: pb.CreateAssistantResponse = await call(user, "CreateAssistant", request)
    return made.assistant


async def test_an_assistant_is_made_changed_listed_and_deleted(app: App) -> None:
    ann = app.user("ann-1")
    first = await create(ann)
    assert (first.version, first.display_name, first.config) == (1, "helper", CONFIG)
    other = RunConfig(system_prompt="Be long.")
    update = pb.UpdateAssistantRequest(assistant_id=first.assistant_id, config=other)
    second = (await call(ann, "UpdateAssistant", update)).assistant
    assert (second.version, second.config) == (2, other)
    get = pb.GetAssistantRequest(assistant_id=first.assistant_id)
    assert (await call(ann, "GetAssistant", get)).assistant == second
    get.version = 1
    assert (await call(ann, "GetAssistant", get)).assistant == first
    more = await create(ann)
    page = await call(ann, "ListAssistants", pb.ListAssistantsRequest(page_size=1))
    assert [each.assistant_id for each in page.assistants] == [more.assistant_id]
    rest = await call(ann, "ListAssistants", pb.ListAssistantsRequest(page_token=page.next_page_token))
    assert ([each.version for each in rest.assistants], rest.next_page_token) == ([2], "")
    for name in (first.assistant_id, first.assistant_id, "no id"):
        await call(ann, "DeleteAssistant", pb.DeleteAssistantRequest(assistant_id=name))
    assert (await refusal(call(ann, "GetAssistant", get)))[:2] == MISSING


async def test_a_request_that_comes_again_makes_one(app: App) -> None:
    ann = app.user("ann-2")
    assert await create(ann, request_id="r") == await create(ann, request_id="r")
    code, reason, _ = await refusal(create(ann, request_id="r", display_name="another"))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


@pytest.mark.parametrize(("name", "org"), [("bob", "o"), ("ann-3", "elsewhere")])
async def test_to_others_there_is_none(app: App, name: str, org: str) -> None:
    made = await create(app.user("ann-3"), request_id="once")
    stranger = app.user(name, org=org)
    thread_id = await stranger.thread()
    for method, request in (
        ("GetAssistant", pb.GetAssistantRequest(assistant_id=made.assistant_id)),
        ("UpdateAssistant", pb.UpdateAssistantRequest(assistant_id=made.assistant_id, config=CONFIG)),
        ("StartRun", pb.StartRunRequest(thread_id=thread_id, input="x", assistant_id=made.assistant_id)),
        ("StartRun", pb.StartRunRequest(thread_id=thread_id, input="x", assistant_id="no id")),
    ):
        assert (await refusal(call(stranger, method, request)))[:2] == MISSING
    await call(stranger, "DeleteAssistant", pb.DeleteAssistantRequest(assistant_id=made.assistant_id))
    get = pb.GetAssistantRequest(assistant_id=made.assistant_id)
    assert (await call(app.user("ann-3"), "GetAssistant", get)).assistant == made


async def test_what_a_configuration_breaks_is_told_before_anything_is_kept(app: App) -> None:
    ann = app.user("ann-4")
    bad = RunConfig(
        tools=["run_python"], first_tool="other", approval_tools=["other"], response_json_schema="{"
    )
    fields = {"config.first_tool", "config.approval_tools[0]", "config.response_json_schema"}
    assert await broken_fields(create(ann, bad)) == fields
    made = await create(ann)
    update = pb.UpdateAssistantRequest(assistant_id=made.assistant_id, config=bad)
    assert await broken_fields(call(ann, "UpdateAssistant", update)) == fields
    code, reason, facts = await refusal(create(ann, RunConfig(tools=["teleport"])))
    assert (code, reason, facts) == (grpc.StatusCode.NOT_FOUND, "TOOL_NOT_FOUND", {"tool": "teleport"})
    found = await call(ann, "ListAssistants", pb.ListAssistantsRequest())
    assert [each.version for each in found.assistants] == [1]


async def test_a_user_has_so_many(app: App) -> None:
    ann = app.user("ann-5")
    for _ in range(5):
        await create(ann)
    code, reason, facts = await refusal(create(ann))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_OBJECTS")
    assert facts == {"limit": "assistants", "max": "5"}


async def test_a_run_takes_its_assistants_configuration_under_its_own(app: App) -> None:
    ann = app.user("ann-6")
    made = await create(ann)
    thread_id = await ann.thread()
    request = pb.StartRunRequest(
        request_id="once",
        thread_id=thread_id,
        input="What is 6 * 7?",
        assistant_id=made.assistant_id,
        config=RunConfig(limits=RunLimits(model_call_count=2)),
    )
    run = (await call(ann, "StartRun", request)).run
    assert (run.config.model, run.config.system_prompt) == ("tiny", "Be brief.")
    assert (run.config.limits.step_count, run.config.limits.model_call_count) == (3, 2)
    assert (run.assistant_id, run.assistant_version) == (made.assistant_id, 1)
    await call(
        ann, "UpdateAssistant", pb.UpdateAssistantRequest(assistant_id=made.assistant_id, config=RunConfig())
    )
    await call(ann, "DeleteAssistant", pb.DeleteAssistantRequest(assistant_id=made.assistant_id))
    kept = await ann.run(run.run_id)
    assert (kept.assistant_id, kept.assistant_version, kept.config) == (made.assistant_id, 1, run.config)
    again = (await call(ann, "StartRun", request)).run  # Though its assistant is gone.
    assert again.run_id == run.run_id
    await ann.cancel(run.run_id)
