"""What the client asks of agents, and what it makes of the answers."""

from typing import Any

import pytest
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.run_pb2 import (
    BUSY_POLICY_ENQUEUE,
    BUSY_POLICY_INTERRUPT,
    DISCONNECT_POLICY_CANCEL,
    DISCONNECT_POLICY_CONTINUE,
    RUN_STATUS_RUNNING,
    Run,
)
from ollamesh.client import CallError, Client, runs

from services.agent.errors import ApprovalNotFound
from tests.fakes.scripted_mesh import ScriptedMesh
from tests.service.client_rig import client, mesh

__all__ = ["client", "mesh"]

QUESTION = runs.Approval(
    approval_id="q-1", tool_call_id="c-1", call_hash=bytes(range(32)), reason="", expire_time=None
)


def kept(mesh: ScriptedMesh, method: str, response: Any) -> list[Any]:
    """What `method` was asked; it answers `response`."""
    asked: list[Any] = []

    async def answer(request: Any, context: object) -> Any:
        asked.append(request)
        if isinstance(response, Exception):
            raise response
        return response

    mesh.unary[method] = answer
    return asked


async def test_a_run_is_started_as_wished(mesh: ScriptedMesh, client: Client) -> None:
    asked = kept(mesh, "StartRun", pb.StartRunResponse(run=Run(run_id="r-1", assistant_id="a-1")))
    config = runs.Config(approval_tools=("mail",), tool_call_count_max=3, approval_wait_max_s=60)
    started = await client.agent.start(
        "t-1",
        "go",
        config,
        assistant_id="a-1",
        busy_policy="interrupt",
        ends_unwatched=True,
        request_id="mine",
    )
    assert (started.run_id, started.assistant_id) == ("r-1", "a-1")
    await client.start_run("t-1", "go")
    wished, plain = asked
    assert (wished.request_id, wished.thread_id, wished.input, wished.assistant_id) == (
        "mine",
        "t-1",
        "go",
        "a-1",
    )
    assert (wished.busy_policy, wished.disconnect_policy) == (BUSY_POLICY_INTERRUPT, DISCONNECT_POLICY_CANCEL)
    assert list(wished.config.approval_tools) == ["mail"]
    assert (wished.config.limits.tool_call_count, wished.config.limits.approval_wait.seconds) == (3, 60)
    assert (plain.busy_policy, plain.disconnect_policy) == (BUSY_POLICY_ENQUEUE, DISCONNECT_POLICY_CONTINUE)
    assert plain.request_id, "so that a retry finds the first"
    assert not plain.assistant_id
    assert not plain.config.model


async def test_many_runs_are_started_at_once(mesh: ScriptedMesh, client: Client) -> None:
    answer = pb.StartRunsResponse(runs=[Run(run_id="r-1", is_batch=True), Run(run_id="r-2", is_batch=True)])
    asked = kept(mesh, "StartRuns", answer)
    started = await client.agent.start_many(["one", "two"], runs.Config(model="tiny"))
    assert [(run.run_id, run.is_batch) for run in started] == [("r-1", True), ("r-2", True)]
    assert (list(asked[0].inputs), asked[0].config.model) == (["one", "two"], "tiny")


@pytest.mark.parametrize("decision", ["approve", "edit", "reject"])
async def test_a_decision_names_the_call_that_it_is_about(
    mesh: ScriptedMesh, client: Client, decision: str
) -> None:
    asked = kept(mesh, "SubmitApproval", pb.SubmitApprovalResponse(run=Run(status=RUN_STATUS_RUNNING)))
    match decision:
        case "approve":
            run = await client.agent.approve("r-1", QUESTION)
        case "edit":
            run = await client.agent.edit("r-1", QUESTION, '{"a": 1}')
        case _:
            run = await client.agent.reject("r-1", QUESTION, "no")
    assert run.status == "running"
    [request] = asked
    assert (request.run_id, request.approval_id, request.call_hash) == ("r-1", "q-1", QUESTION.call_hash)
    assert request.WhichOneof("decision") == decision
    assert (request.edit.arguments_json, request.reject.reason) == {
        "approve": ("", ""),
        "edit": ('{"a": 1}', ""),
        "reject": ("", "no"),
    }[decision]


async def test_a_decision_that_comes_too_late_is_an_error(mesh: ScriptedMesh, client: Client) -> None:
    kept(mesh, "SubmitApproval", ApprovalNotFound())
    with pytest.raises(CallError) as refused:
        await client.agent.approve("r-1", QUESTION)
    assert refused.value.reason == "APPROVAL_NOT_FOUND"


async def test_runs_are_found_listed_and_cancelled(mesh: ScriptedMesh, client: Client) -> None:
    kept(mesh, "GetRun", pb.GetRunResponse(run=Run(run_id="r-1", config=RunConfig(model="tiny"))))
    assert (await client.agent.get("r-1")).model == "tiny"

    async def page(request: pb.ListRunsRequest, context: object) -> pb.ListRunsResponse:
        if not request.page_token:
            return pb.ListRunsResponse(runs=[Run(run_id="r-2")], next_page_token="2")
        return pb.ListRunsResponse(runs=[Run(run_id="r-1")])

    mesh.unary["ListRuns"] = page
    assert [run.run_id async for run in client.agent.list_runs("t-1")] == ["r-2", "r-1"]
    asked = kept(mesh, "CancelRun", pb.CancelRunResponse(run=Run(run_id="r-1")))
    await client.agent.cancel("r-1", rollback=True)
    assert asked[0].rollback


async def test_tools_say_what_they_do_to_the_world(mesh: ScriptedMesh, client: Client) -> None:
    tool = pb.Tool(name="mail", effect=pb.TOOL_EFFECT_EXTERNAL, needs_approval=True, returns_untrusted=True)
    tool.timeout.seconds = 3
    kept(mesh, "ListTools", pb.ListToolsResponse(tools=[tool]))
    [found] = await client.agent.tools()
    assert (found.name, found.effect, found.needs_approval) == ("mail", "external", True)
    assert (found.timeout_s, found.is_confined, found.returns_untrusted) == (3.0, False, True)
