"""The chat model against a scripted inference service: what is asked, what is heard, and who hangs up."""

import asyncio
import json
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from pydantic import SecretStr

from services.agent.adapters.chat_model import MeshChatModel
from services.agent.errors import ModelFailed
from services.common.errors import Kind, MeshError
from tests.fakes.fake_inference import FakeInference, Reply
from tests.service.agent_app import until

SECRET = "eyJhbGciOi.token"


class QueueFull(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    message = "every waiting place is taken"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
async def inference() -> AsyncIterator[FakeInference]:
    async with FakeInference.serving() as fake:
        yield fake


@pytest.fixture
async def model(inference: FakeInference) -> AsyncIterator[MeshChatModel]:
    async with grpc.aio.insecure_channel(inference.target) as channel:
        yield MeshChatModel(
            model="tiny",
            temperature=0.5,
            seed=7,
            output_token_count_max=64,
            conversation_id="t",
            request_ids="r",
            deadline_s=asyncio.get_running_loop().time() + 20,
            token=SecretStr(SECRET),
            stub=InferenceServiceStub(channel),
        )


async def test_asking_gives_the_whole_answer_with_its_usage(
    inference: FakeInference, model: MeshChatModel
) -> None:
    inference.script = [Reply(thinking="hm", texts=["It ", "is ", "42."])]
    answer = await model.ainvoke("why?")
    assert (answer.content, answer.additional_kwargs) == ("It is 42.", {"reasoning_content": "hm"})
    assert answer.usage_metadata == {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    assert answer.response_metadata["finish_reason"] == "stop"


async def test_streaming_gives_the_pieces_as_they_were(
    inference: FakeInference, model: MeshChatModel
) -> None:
    inference.script = [Reply(texts=["It ", "is ", "42."])]
    chunks = [chunk async for chunk in model.astream("why?")]
    assert [chunk.content for chunk in chunks] == ["It ", "is ", "42.", ""]
    assert isinstance(chunks[-1], AIMessageChunk)
    assert chunks[-1].chunk_position == "last"


async def test_a_call_and_its_result_come_and_go_unchanged(
    inference: FakeInference, model: MeshChatModel
) -> None:
    arguments = {"a": 1, "b": 2, "text": "[1, 2]"}
    inference.script = [Reply(texts=["See."], calls=[("add", json.dumps(arguments))] * 2)]
    asked = [SystemMessage("Be brief."), HumanMessage("1 + 2?")]
    answer = await model.bind_tools([add]).ainvoke(asked)
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("add", arguments)] * 2
    ids = [str(call["id"]) for call in answer.tool_calls]
    assert len(set(ids)) == 2, "each call has a name of its own"

    results = [ToolMessage("3", tool_call_id=call_id, name="add") for call_id in ids]
    await model.bind_tools([add]).ainvoke([*asked, answer, *results])
    first, second = (asked.request for asked in inference.asked)
    assert [(offered.name, offered.description) for offered in first.tools] == [("add", "Add two numbers.")]
    schema = json.loads(first.tools[0].parameters_json_schema)
    assert schema["required"] == ["a", "b"]
    assert [message.role for message in second.messages] == [
        pb.ROLE_SYSTEM,
        pb.ROLE_USER,
        pb.ROLE_ASSISTANT,
        pb.ROLE_TOOL,
        pb.ROLE_TOOL,
    ]
    said, result = second.messages[2], second.messages[3]
    assert said.content == "See."
    assert [(call.id, json.loads(call.arguments_json)) for call in said.tool_calls] == [
        (call_id, arguments) for call_id in ids
    ]
    assert (result.content, result.tool_name, result.tool_call_id) == ("3", "add", ids[0])


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", '{"a": NaN}', '{"a": Infinity}'])
async def test_arguments_that_are_no_object_are_kept_to_be_shown(
    inference: FakeInference, model: MeshChatModel, arguments: str
) -> None:
    inference.script = [Reply(calls=[("add", arguments)])]
    answer = await model.ainvoke("?")
    assert [call["args"] for call in answer.tool_calls] == [{"unreadable": arguments}]
    assert answer.invalid_tool_calls == []


async def test_names_that_models_make_up_can_be_sent_back(
    inference: FakeInference, model: MeshChatModel
) -> None:
    inference.script = [Reply(calls=[("rm -rf /" * 20, "{}"), ("", "{}")])]
    answer = await model.ainvoke("?")
    assert [call["name"] for call in answer.tool_calls] == [("rm_-rf__" * 20)[:64], "unnamed"]
    await model.ainvoke([HumanMessage("?"), answer, HumanMessage("?")])  # The fake validates what it gets.


async def test_what_is_asked_carries_token_deadline_and_options(
    inference: FakeInference, model: MeshChatModel
) -> None:
    await model.ainvoke("why?", stop=["\n"])
    await model.ainvoke("why?")
    first, second = inference.asked
    assert first.authorization == f"Bearer {SECRET}"
    assert 15 < first.remaining_s <= 21.5
    options = first.request.options
    assert (options.temperature, options.seed, options.output_token_count_max) == (0.5, 7, 64)
    assert list(options.stop) == ["\n"]
    assert (first.request.conversation_id, first.request.request_id) == ("t", "r:1")
    assert second.request.request_id == "r:2"
    assert not second.request.options.stop


async def test_what_a_run_needs_besides_is_asked_for(inference: FakeInference, model: MeshChatModel) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    more = model.model_copy(update={"context_token_count": 4096, "is_batch": True})
    await more.ainvoke("why?", format=schema)
    await model.ainvoke("why?", format="json")
    await model.ainvoke("why?")
    first, second, third = (asked.request for asked in inference.asked)
    assert json.loads(first.format.json_schema) == schema
    assert (first.options.context_token_count, first.priority) == (4096, pb.PRIORITY_BATCH)
    assert second.format.json
    assert not third.HasField("format")
    assert (third.options.HasField("context_token_count"), third.priority) == (False, pb.PRIORITY_UNSPECIFIED)


async def test_calls_are_heard_one_by_one_as_they_come(
    inference: FakeInference, model: MeshChatModel
) -> None:
    inference.script = [Reply(texts=["See: "], calls=[("add", '{"a": 1, "b": 2}'), ("add", "{}")])]
    chunks = [chunk async for chunk in model.bind_tools([add]).astream("?")]
    pieces = [
        piece for chunk in chunks if isinstance(chunk, AIMessageChunk) for piece in chunk.tool_call_chunks
    ]
    assert [(piece["index"], piece["name"], piece["args"]) for piece in pieces] == [
        (0, "add", '{"a": 1, "b": 2}'),
        (1, "add", "{}"),
    ]


async def test_calls_of_small_models_are_read_as_they_were_meant(
    inference: FakeInference, model: MeshChatModel
) -> None:
    inference.script = [
        Reply(calls=[("functions.Add", """{'a': '1', "b": 2,}""")]),
        Reply(
            texts=[
                "Let me see.\n<tool",
                '_call>{"name": "add", "arguments": {"a": 1, "b": 2}}',
                "</tool_call>",
            ]
        ),
    ]
    for text in ("", "Let me see.\n"):
        answer = await model.bind_tools([add]).ainvoke("?")
        assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("add", {"a": 1, "b": 2})]
        assert answer.content == text
        assert answer.response_metadata["finish_reason"] == "tool_calls"


async def test_unset_options_stay_unset(inference: FakeInference, model: MeshChatModel) -> None:
    plain = MeshChatModel(model="tiny", deadline_s=model.deadline_s, token=SecretStr("t"), stub=model.stub)
    await plain.ainvoke("why?")
    request = inference.asked[0].request
    assert not request.options.HasField("temperature")
    assert not request.options.HasField("seed")
    assert request.request_id == ""


async def test_whoever_stops_listening_hangs_up(inference: FakeInference, model: MeshChatModel) -> None:
    inference.script = [Reply(texts=["a", "b"], hold=asyncio.Event())]
    stream = model.astream("why?")
    async for _ in stream:
        break
    assert inference.running == 1
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: inference.running == 0)


async def test_cancelling_the_question_hangs_up(inference: FakeInference, model: MeshChatModel) -> None:
    inference.script = [Reply(hold=asyncio.Event())]
    asking = asyncio.create_task(model.ainvoke("why?"))
    await until(lambda: inference.running == 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: inference.running == 0)


async def test_a_refusal_says_why_and_nothing_of_our_insides(
    inference: FakeInference, model: MeshChatModel
) -> None:
    inference.script = [Reply(failure=QueueFull(waiting_max=3)), Reply(texts=["x"], failure=KeyError("dsn"))]
    with pytest.raises(ModelFailed, match=r"every waiting place is taken \(QUEUE_FULL\)$"):
        await model.ainvoke("why?")
    with pytest.raises(ModelFailed, match=r"\(INTERNAL\)$") as failure:
        await model.ainvoke("why?")
    assert "dsn" not in str(failure.value)


async def test_a_deadline_that_has_passed_is_a_failure(
    inference: FakeInference, model: MeshChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.agent.adapters.chat_model.TIMEOUT_MARGIN_S", 0.1)
    model.deadline_s = 0.0
    inference.script = [Reply(hold=asyncio.Event())]
    with pytest.raises(ModelFailed, match=r"\(DEADLINE_EXCEEDED\)$"):
        await model.ainvoke("why?")


async def test_the_token_is_in_nothing_that_is_shown(model: MeshChatModel) -> None:
    for shown in (repr(model), str(model), dumps(model), str(model.model_dump())):
        assert SECRET not in shown


async def test_the_tool_that_is_chosen_is_offered_alone(
    inference: FakeInference, model: MeshChatModel
) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    await model.bind_tools([add, other], tool_choice="add").ainvoke("?")
    await model.bind_tools([add, other], tool_choice="any").ainvoke("?")
    await model.bind_tools([add, other], tool_choice="auto").ainvoke("?")
    offered = [[tool.name for tool in asked.request.tools] for asked in inference.asked]
    assert offered == [["add"], ["add", "other"], ["add", "other"]]
    with pytest.raises(ValueError, match="to choose"):
        model.bind_tools([add], tool_choice="other")


async def test_it_is_asynchronous_only(model: MeshChatModel) -> None:
    with pytest.raises(NotImplementedError):
        model.invoke([AIMessage("?")])
