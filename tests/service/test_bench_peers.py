"""What the benchmark compares with answers as asked, by the interface that the benchmark knows it by."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from aiohttp import web
from ollamesh.inference.v1.completion_pb2 import ChatResponse

from deploy.local.process import identify
from tests.bench.peers.bare_aio import token_count
from tests.bench.peers.install import CannotInstallError, install, installed
from tests.bench.peers.settings import PROVIDERS, litellm_config
from tests.bench.support import peers
from tests.bench.support.peers import Peer, PeerFailedError, bare_aio

MODELS = ("stub-n3-i0-t0:latest", "stub-n5-i0-t0:latest")


@pytest.fixture(autouse=True)
def own_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "LOGS", tmp_path)


@pytest.mark.parametrize("kind", ["built", "raw"])
def test_bare_grpc_streams_what_it_was_asked_for(kind: str) -> None:
    with bare_aio(raw=kind == "raw") as peer:
        with grpc.insecure_channel(f"127.0.0.1:{peer.port}") as channel:
            ask: Any = channel.unary_stream(peer.path, response_deserializer=ChatResponse.FromString)
            *deltas, last = (answer.event for answer in ask(peer.body("stub-n500-i0"), timeout=30))
        assert peer.cpu_s() > 0
        assert peer.rss_bytes() > 0
    assert last.HasField("finished")
    assert [event.delta.token_count for event in deltas] == [1] * 500
    sent_ns = [int(event.delta.text.removeprefix("~")) for event in deltas]
    assert sent_ns == sorted(sent_ns)
    assert {len(event.delta.text) for event in deltas} == {len("~ ") + 17}


def test_a_peer_is_gone_with_its_block() -> None:
    with pytest.raises(KeyError), bare_aio() as peer:
        raise KeyError
    assert identify(peer.pid) is None


def test_whoever_it_started_is_gone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = "trap '' TERM; while :; do sleep 60; done"
    monkeypatch.setattr(peers, "END_TIMEOUT_S", 0.1)
    with peers._running("family", ("/bin/sh", "-c", f"({stubborn}) & wait"), env={}) as pid:
        end_s = time.monotonic() + 30
        while len(family := psutil.Process(pid).children(recursive=True)) < 2:
            assert time.monotonic() < end_s
            time.sleep(0.01)
    assert not any(identify(one.pid) for one in family)


def test_one_that_does_not_start_is_told_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "bare_aio_command", lambda *_, **__: ("/bin/ls", "/no-such-folder"))
    with pytest.raises(PeerFailedError, match="no-such-folder"), bare_aio():
        pass


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm_is_told_of_each_model(provider: str) -> None:
    url = "http://127.0.0.1:4711"
    config = json.loads(json.dumps(litellm_config(url, MODELS, provider=provider)))
    assert [row["model_name"] for row in config["model_list"]] == list(MODELS)
    assert [row["litellm_params"]["model"] for row in config["model_list"]] == [
        f"{provider}/{model}" for model in MODELS
    ]
    assert {row["litellm_params"]["api_base"] for row in config["model_list"]} == {
        url if provider == "ollama_chat" else f"{url}/v1"
    }


def test_a_peer_is_installed_once_by_lock(tmp_path: Path) -> None:
    environments, lock = tmp_path / "peers", tmp_path / "nothing.lock"
    lock.touch()

    def again() -> bool:
        return install("nothing", peers=environments, locks=tmp_path)

    assert not installed("nothing", peers=environments, locks=tmp_path)
    assert again()
    assert installed("nothing", peers=environments, locks=tmp_path)
    assert not again()
    lock.write_text("# another lock\n")
    assert again()


@pytest.mark.parametrize(
    ("name", "lock", "told"),
    [
        ("plain", "some==1.0\n", "plain cannot be had: uv says: In `--require-hashes` mode"),
        (
            "foreign",
            f"some==1.0 --hash=sha256:{'0' * 64}\n",
            "one of its packages has no wheel for this machine",
        ),
        ("unknown", None, "There is no peer unknown"),
    ],
)
def test_a_peer_that_cannot_be_had_is_told(
    name: str, lock: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some-1.0-cp39-cp39-win_amd64.whl").touch()
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    if lock is not None:
        (tmp_path / f"{name}.lock").write_text(lock)
    with pytest.raises(CannotInstallError, match=told):
        install(name, peers=tmp_path / "peers", locks=tmp_path)
    assert not installed(name, peers=tmp_path / "peers", locks=tmp_path)


@pytest.mark.timeout(180)  # LiteLLM alone may take two minutes to start.
@pytest.mark.parametrize("name", ["vllm_router", "litellm"])
async def test_what_is_installed_streams_a_whole_answer(name: str) -> None:
    if not peers.installed(name):
        pytest.skip("make bench-peers")
    run: Callable[..., AbstractContextManager[Peer]] = getattr(peers, name)
    async with little_stub() as url:
        assert await asyncio.to_thread(_answer_of, run, url) == "0 1 2 3 4 "


def _answer_of(run: Callable[..., AbstractContextManager[Peer]], url: str) -> str:
    with run(url, MODELS) as peer:
        connection = HTTPConnection("127.0.0.1", peer.port, timeout=30)
        connection.request(
            "POST", peer.path, peer.body(MODELS[1]), {"content-type": "application/json", **peer.headers}
        )
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


@asynccontextmanager
async def little_stub() -> AsyncIterator[str]:
    """An OpenAI-compatible server that answers with as many tokens as the model's name says."""
    app = web.Application()
    app.add_routes([web.get("/health", _healthy), web.post(peers.SSE_PATH, _completion)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _healthy(_: web.Request) -> web.Response:
    return web.Response()


async def _completion(request: web.Request) -> web.StreamResponse:
    model = (await request.json())["model"]
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for number in range(token_count(model)):
        await response.write(_event(model, {"role": "assistant", "content": f"{number} "}, None))
    await response.write(_event(model, {}, "stop") + b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _event(model: str, delta: dict[str, str], reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n".encode()
