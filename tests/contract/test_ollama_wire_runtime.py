"""What only the embedded runtime promises: real processes, real memory, a real model."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import httpx
import psutil
import pytest

from deploy.local.models.catalog import CHAT as CHAT_FILE
from deploy.local.runtime.errors import LoadFailedError, LoadTimeoutError, WireError
from deploy.local.runtime.llama_server import Settings
from deploy.local.runtime.runner import Runner
from tests.contract.ollama_servers import (
    CHAT,
    COUNTING,
    EMBEDDING,
    HELLO,
    ROOT,
    SHORT,
    OllamaServer,
    eventually,
    models_folder,
    runtime_server,
)

ONE_TOKEN = {"model": CHAT, "raw": True, "options": {"num_predict": 1}}


@pytest.fixture
def http(runtime: OllamaServer) -> Iterator[httpx.Client]:
    with runtime.client() as http:
        yield http


def load(http: httpx.Client, model: str = CHAT, **fields: object) -> None:
    assert http.post("/api/generate" if model == CHAT else "/api/embed", json={"model": model, **fields})


def test_unloading_ends_the_process(runtime: OllamaServer, http: httpx.Client) -> None:
    load(http)
    runners = runtime.runners()
    assert runners
    for model in (CHAT, EMBEDDING):
        load(http, model, keep_alive=0)
    eventually(lambda: not runtime.runners())
    assert not any(runner.is_running() for runner in runners)


@pytest.mark.parametrize(
    "more",
    [
        {"context": [2**31 - 1]},
        {"context": [-5]},
        {"format": {"type": 5}},
        {"format": {"type": "array", "maxItems": 10**7}},
    ],
)
def test_what_a_request_is_to_blame_for_is_no_failure_of_the_server(
    http: httpx.Client, more: dict[str, object]
) -> None:
    reply = http.post("/api/generate", json={"model": CHAT, "prompt": "hi", "options": SHORT, **more})
    assert reply.status_code == 400


def test_models_are_not_changed_over_the_wire(http: httpx.Client) -> None:
    for refused in (
        http.request("DELETE", "/api/delete", json={"model": CHAT}),
        http.post("/api/copy", json={"source": CHAT, "destination": "mine"}),
        http.post("/api/create", json={"model": "mine", "from": CHAT}),
        http.post(f"/api/blobs/sha256:{'0' * 64}", content=b"x"),
    ):
        assert refused.status_code == 400
        assert "does not" in refused.json()["error"]
    assert CHAT in http.get("/api/tags").text


def test_a_killed_runner_is_an_error_and_then_replaced(runtime: OllamaServer, http: httpx.Client) -> None:
    load(http)
    with http.stream("POST", "/api/generate", json=COUNTING) as reply:
        lines = reply.iter_lines()
        next(lines)
        for runner in runtime.runners():
            runner.kill()
        *_, last = lines
    assert "model runner has unexpectedly stopped" in json.loads(last)["error"]
    assert http.post("/api/chat", json={"model": CHAT, "messages": HELLO, "options": SHORT}).is_success


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_runtime(number: signal.Signals) -> None:
    with runtime_server() as own, own.client() as http:
        load(http)
        runners = own.runners()
        assert runners
        own.process.send_signal(number)
        _, alive = psutil.wait_procs(runners, timeout=20)
        assert not alive


@pytest.mark.timed
async def test_leaving_during_the_prompt_stops_its_computation(runtime: OllamaServer) -> None:
    """llama.cpp alone goes on with the prompt, above all while others generate, and nobody gets the slot.

    Judged by processor time, so that a busy machine does not matter.
    """
    async with runtime.async_client() as http:
        await http.post("/api/embed", json={"model": EMBEDDING, "keep_alive": 0})
        await http.post("/api/generate", json={"model": CHAT})
        await asyncio.to_thread(eventually, lambda: len(runtime.runners()) == 1)
        (runner,) = runtime.runners()
        began_s = _processor_s(runner)
        await http.post("/api/generate", json={**ONE_TOKEN, "prompt": _squares(15)})
        whole_s = (_processor_s(runner) - began_s) * 24  # What a prompt that many times as long takes.

        async with http.stream("POST", "/api/generate", json=COUNTING) as other:
            await anext(other.aiter_lines())
            began_s = _processor_s(runner)
            doomed = asyncio.create_task(
                http.post("/api/generate", json={**ONE_TOKEN, "prompt": _squares(360)})
            )
            while _processor_s(runner) - began_s < whole_s / 16:
                await asyncio.sleep(0.01)
            doomed.cancel()
            await http.post("/api/generate", json={**ONE_TOKEN, "prompt": "Next."})
            assert _processor_s(runner) - began_s < whole_s * 0.6


def test_a_conversation_that_is_too_long_loses_its_beginning(http: httpx.Client) -> None:
    old = [{"role": "user", "content": "word " * 100}, {"role": "assistant", "content": "Fine."}]
    body = {"model": CHAT, "messages": old * 4 + HELLO, "stream": False, "options": {**SHORT, "num_ctx": 256}}
    fitted = http.post("/api/chat", json=body).json()
    assert fitted["prompt_eval_count"] < 256
    refused = http.post("/api/chat", json={**body, "truncate": False})
    assert refused.status_code == 400
    assert "exceed" in refused.json()["error"]


def test_long_texts_are_cut_unless_that_is_forbidden(http: httpx.Client) -> None:
    body = {"model": EMBEDDING, "input": ["word " * 600, "short"]}
    reply = http.post("/api/embed", json=body).json()
    assert len(reply["embeddings"]) == 2
    assert reply["prompt_eval_count"] < 300
    refused = http.post("/api/embed", json={**body, "truncate": False})
    expected = {"error": "the input length exceeds the context length"}
    assert (refused.status_code, refused.json()) == (400, expected)


def test_a_schema_that_is_none_is_refused(http: httpx.Client) -> None:
    body = {"model": CHAT, "messages": HELLO, "stream": False, "options": {"num_predict": 40}}
    unknown = http.post("/api/chat", json={**body, "format": {"type": "no such type"}})
    assert unknown.status_code == 400
    # This one looks right and cannot be compiled, which shows only in what the model writes.
    broken = http.post("/api/chat", json={**body, "format": {"type": "string", "pattern": "("}})
    assert broken.status_code == 400
    assert "does not follow" in broken.json()["error"]


def test_the_embeddings_mean_something(http: httpx.Client) -> None:
    texts = ["cat", "feline", "interest rates", "This is an example sentence", "Each sentence is converted"]
    embeddings = http.post("/api/embed", json={"model": EMBEDDING, "input": texts}).json()["embeddings"]
    cat, feline, rates, *published = embeddings
    assert _dot(cat, feline) > 0.5
    assert _dot(cat, rates) < 0.2
    # The first numbers that the model's authors print for these two sentences.
    assert published[0][:3] == pytest.approx([0.0677, 0.0635, 0.0487], abs=2e-3)
    assert published[1][:3] == pytest.approx([0.0864, 0.1027, 0.0053], abs=2e-3)


def test_the_model_writes_code_that_runs_and_reads_its_output(runtime: OllamaServer) -> None:
    """The recipe of the demonstration: one example, and a schema for the shape of the code."""
    part = r"[^()\"\\#{}]"
    inner = rf"\({part}*\)"
    pattern = rf"^print\(({part}|\(({part}|{inner})*\)){{1,60}}\)$"
    code = {"type": "string", "pattern": pattern}
    function = {
        "name": "run_python",
        "description": "Runs Python code and returns what it prints.",
        "parameters": {"type": "object", "properties": {"code": code}, "required": ["code"]},
    }
    example = 'Q: What is 2 + 3?\nA: {"name":"run_python","arguments":{"code":"print(2 + 3)"}}'
    messages: list[dict[str, object]] = [
        {"role": "system", "content": f"Answer with Python.\n{example}"},
        {"role": "user", "content": "What is 1234567 * 7654321?"},
    ]
    body = {"model": CHAT, "stream": False, "options": {"temperature": 0, "num_predict": 100}}
    tools = [{"type": "function", "function": function}]
    with runtime.client() as http:
        called = http.post("/api/chat", json={**body, "messages": messages, "tools": tools}).json()
        written = called["message"]["tool_calls"][0]["function"]["arguments"]["code"]
        ran = subprocess.run(
            [sys.executable, "-I", "-c", written], capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == "9449772114007"
        result: dict[str, object] = {"role": "tool", "tool_name": "run_python", "content": ran.stdout.strip()}
        messages += [called["message"], result]
        answered = http.post("/api/chat", json={**body, "messages": messages, "tools": tools}).json()
    assert "9449772114007" in answered["message"]["content"].replace(",", "")


def test_a_damaged_model_is_not_served(tmp_path: Path) -> None:
    for part in models_folder().iterdir():
        if part.is_file():
            shutil.copy2(part, tmp_path)
    damaged = tmp_path / CHAT_FILE.file
    status = damaged.stat()
    with damaged.open("r+b") as file:
        file.seek(50_000_000)
        file.write(b"damage")
    os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns))  # As a failing disk would.
    with runtime_server(models=tmp_path) as own, own.client() as http:
        reply = http.post("/api/generate", json={"model": CHAT})
    assert reply.status_code == 500
    assert "is damaged; run `python -m deploy.local.models" in reply.json()["error"]


@pytest.mark.parametrize(("timeout_s", "error"), [(30.0, LoadFailedError), (0.001, LoadTimeoutError)])
async def test_a_load_that_fails_leaves_no_process(
    tmp_path: Path, timeout_s: float, error: type[WireError]
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(1000))
    settings = Settings(
        model=str(tmp_path / "model.gguf"), context_length=256, parallel=1, thread_count=1, embedding=False
    )
    async with aiohttp.ClientSession() as session:
        with pytest.raises(error):
            await Runner.start(settings, session, timeout_s=timeout_s)
    eventually(lambda: not any(str(tmp_path) in _command(child) for child in psutil.Process().children()))


def test_it_says_in_a_sentence_why_it_cannot_start(runtime: OllamaServer, tmp_path: Path) -> None:
    port = runtime.url.rpartition(":")[2]
    for arguments, env, said in (
        (["127.0.0.1:0", str(tmp_path)], {}, "run `python -m deploy.local.models"),
        ([f"127.0.0.1:{port}", str(models_folder())], {}, "cannot listen on"),
        (["127.0.0.1:0", str(models_folder())], {"OLLAMA_NUM_PARALLEL": "0"}, "OLLAMA_NUM_PARALLEL is not"),
        (["127.0.0.1:0", str(models_folder())], {"OLLAMA_KEEP_ALIVE": "soon"}, "OLLAMA_KEEP_ALIVE is not"),
    ):
        listen, models = arguments
        command = [sys.executable, "-m", "deploy.local.runtime", "--listen", listen, "--models", models]
        run = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert run.returncode in {1, 2}
        (line,) = run.stderr.splitlines()
        assert line.startswith("ollamesh: ")
        assert said in line


def _squares(count: int) -> str:
    """About four tokens each."""
    return " ".join(str(number * number) for number in range(1000, 1000 + count))


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # It is ending.
        return ""


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
