"""`ollamesh batch`: what is submitted, what is shown, and the exit code."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from ollamesh.inference.v1 import batch_pb2 as pb
from ollamesh.inference.v1.completion_pb2 import FINISH_REASON_STOP, ROLE_USER, Message, TokenUsage

from tests.fakes.command_line import Cli, answering, cli, home, json_lines, mesh, streaming
from tests.fakes.scripted_mesh import ScriptedMesh, Unavailable

__all__ = ["cli", "home", "mesh"]

BATCH = pb.Batch(
    batch_id="b-1", display_name="mine", state=pb.BATCH_STATE_RUNNING, item_count=1200, succeeded_count=3
)
OPENAI = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0,
        "max_tokens": 5,
        "stop": "x",
        "stream": False,
    },
}
OURS = {"custom_id": "b", "generate": {"model": "tiny", "prompt": "go on", "raw": True}}


def answer(sequence: int, text: str, *, custom_id: str = "") -> pb.StreamBatchResultsResponse:
    told = pb.StreamBatchResultsResponse.Answer(
        message=Message(content=text),
        finish_reason=FINISH_REASON_STOP,
        usage=TokenUsage(prompt_token_count=1, output_token_count=2),
        model="tiny:latest",
    )
    return pb.StreamBatchResultsResponse(
        sequence=sequence, item_index=sequence - 1, custom_id=custom_id, answer=told
    )


def failure(sequence: int) -> pb.StreamBatchResultsResponse:
    status = Status(code=5, message="no instance has the model")
    status.details.add().Pack(ErrorInfo(reason="MODEL_NOT_FOUND", metadata={"model": "x"}))
    return pb.StreamBatchResultsResponse(sequence=sequence, item_index=sequence - 1, error=status)


def test_both_kinds_of_lines_are_submitted(cli: Cli, mesh: ScriptedMesh, tmp_path: Path) -> None:
    received: list[pb.CreateBatchRequest] = []

    async def create(parts: AsyncIterator[pb.CreateBatchRequest], context: object) -> pb.CreateBatchResponse:
        received.extend([part async for part in parts])
        return pb.CreateBatchResponse(batch=BATCH)

    mesh.unary["CreateBatch"] = create
    file = tmp_path / "items.jsonl"
    file.write_text(f"{json.dumps(OPENAI)}\n\n{json.dumps(OURS)}\n")
    done = cli("batch", "submit", str(file), "--name", "mine", "--request-id", "once", "--window", "2")
    assert (done.exit_code, done.stdout) == (0, "b-1  running  3 of 1,200 items done, 0 failed\n")
    header, items = received[0].header, received[1].items.items
    assert (header.request_id, header.display_name, header.completion_window.seconds) == (
        "once",
        "mine",
        7200,
    )
    chat, generate = items
    assert (chat.custom_id, chat.chat.model, list(chat.chat.options.stop)) == ("a", "tiny", ["x"])
    assert (chat.chat.messages[0].role, chat.chat.messages[0].content) == (ROLE_USER, "hi")
    assert (chat.chat.options.temperature, chat.chat.options.output_token_count_max) == (0, 5)
    assert chat.chat.options.HasField("temperature")
    assert (generate.custom_id, generate.generate.prompt, generate.generate.raw) == ("b", "go on", True)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        json.dumps({"custom_id": "a", "chat": {"no": "field"}}),
        json.dumps({**OPENAI, "url": "/v1/embeddings"}),
        json.dumps({**OPENAI, "body": {"model": "tiny", "messages": [{"role": "user", "content": []}]}}),
        json.dumps({**OPENAI, "body": {"model": "tiny", "messages": [], "tools": []}}),
        json.dumps({**OPENAI, "body": {"model": "tiny", "messages": [], "temperature": "hot"}}),
        json.dumps({**OPENAI, "body": {"model": "tiny"}}),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_submitted(cli: Cli, tmp_path: Path, line: str) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(f"{json.dumps(OURS)}\n{line}\n")
    done = cli("batch", "submit", str(file))
    assert done.exit_code == 1
    assert "items.jsonl, line 2: " in done.stderr


def test_an_empty_file_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("\n")
    done = cli("batch", "submit", str(tmp_path / "items.jsonl"))
    assert (done.exit_code, "there are no requests" in done.stderr) == (1, True)


def test_the_state_of_one_and_of_all(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["GetBatch"] = answering(pb.GetBatchResponse(batch=BATCH))
    mesh.unary["ListBatches"] = answering(pb.ListBatchesResponse(batches=[BATCH]))
    mesh.unary["CancelBatch"] = answering(pb.CancelBatchResponse(batch=BATCH))
    assert cli("batch", "status", "b-1").stdout == "b-1  running  3 of 1,200 items done, 0 failed\n"
    assert cli("batch", "cancel", "b-1").exit_code == 0
    assert json.loads(cli("batch", "status", "b-1", "--json").stdout)["state"] == "running"
    (found,) = json.loads(cli("batch", "status", "--json").stdout)["batches"]
    assert (found["batch_id"], found["item_count"]) == ("b-1", 1200)
    assert cli("batch", "status").stdout.splitlines()[1].split() == [
        *("b-1", "mine", "running", "1200", "3", "0", "-")
    ]


def test_results_are_printed_and_failures_make_it_fail(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.streams["StreamBatchResults"] = streaming(answer(1, "hello", custom_id="a"), failure(2))
    done = cli("batch", "results", "b-1")
    assert done.stdout == ("a: hello\n1: failed: MODEL_NOT_FOUND: no instance has the model (model=x)\n")
    assert (done.exit_code, done.stderr) == (1, "ollamesh: 1 item failed\n")
    first, second = json_lines(cli("batch", "results", "b-1", "--json"))
    assert (first["text"], first["custom_id"], first["error"], first["finish_reason"]) == (
        *("hello", "a", None, "stop"),
    )
    assert second["error"] == {
        "reason": "MODEL_NOT_FOUND",
        "message": "no instance has the model",
        "model": "x",
    }


def test_results_go_on_when_a_stream_has_had_its_time(
    cli: Cli, mesh: ScriptedMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.cli.batch.FOLLOW_S", 0.3)
    asked: list[int] = []

    async def told(
        request: pb.StreamBatchResultsRequest, context: object
    ) -> AsyncIterator[pb.StreamBatchResultsResponse]:
        asked.append(request.after_sequence)
        yield answer(request.after_sequence + 1, f"text {request.after_sequence + 1}")
        if request.after_sequence < 1:
            await asyncio.Event().wait()

    mesh.streams["StreamBatchResults"] = told
    assert cli("batch", "results", "b-1").stdout.splitlines() == ["0: text 1", "1: text 2"]
    assert asked == [0, 1]


def test_results_go_on_over_a_lost_connection(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[int] = []

    async def told(
        request: pb.StreamBatchResultsRequest, context: object
    ) -> AsyncIterator[pb.StreamBatchResultsResponse]:
        asked.append(request.after_sequence)
        yield answer(request.after_sequence + 1, f"text {request.after_sequence + 1}")
        if request.after_sequence < 2:
            raise Unavailable

    mesh.streams["StreamBatchResults"] = told
    done = cli("batch", "results", "b-1")
    assert done.stdout.splitlines() == ["0: text 1", "1: text 2", "2: text 3"]
    assert asked == [0, 1, 2]
