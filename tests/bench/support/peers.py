"""What the gateway is set beside, each as a process of its own on a free port of 127.0.0.1.

    with litellm(stub_url, [model]) as peer:
        ...  # POST peer.body(model) to peer.port and peer.path, with `peer.headers`.

LiteLLM and vllm-router are there after `make bench-peers`; `installed` says whether they are. Each is asked for an
answer before its block begins, and is gone, with all that it started, when the block ends. It cannot outlive us.
"""

import json
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Literal

import grpc
import psutil
from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message, Role

from deploy.local.ports import free_ports
from deploy.local.process import Identity, end_all, identify
from services.common.launch import Guard
from tests.bench.peers import install
from tests.bench.peers.bare_aio import METHOD
from tests.bench.peers.settings import (
    bare_aio_command,
    litellm_command,
    litellm_config,
    litellm_environment,
    vllm_router_command,
)
from tests.bench.support.report import RESULTS, ROOT

LOGS = RESULTS / "logs"
PROMPT = "Hello."
SSE_PATH = "/v1/chat/completions"
START_TIMEOUT_S = 30.0
LITELLM_START_TIMEOUT_S = 120.0  # It loads for 7 s on an idle machine, and for a minute on a busy one.
POLL_S = 0.05
ASK_TIMEOUT_S = 10.0
END_TIMEOUT_S = 10.0  # For the leader, which is asked; then
KILL_TIMEOUT_S = 1.0  # the rest has this long to follow it, and is killed.
LOG_TAIL_CHARACTERS = 2000


class PeerFailedError(Exception):
    """A peer did not start; its text ends with the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    name: str
    port: int
    pid: int  # Leads the process group.
    protocol: Literal["sse", "grpc"]
    path: str
    token: str = ""  # For `authorization: Bearer`, where it wants one.

    @property
    def headers(self) -> Mapping[str, str]:
        """Return what a request needs besides what its protocol says; for gRPC, its metadata."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    def body(self, model: str) -> bytes:
        """Return a request for one short chat, streamed; for gRPC, the message without its frame."""
        return grpc_body(model) if self.protocol == "grpc" else json_body(model)

    def cpu_s(self) -> float:
        """Return the processor time of all its processes, those that have ended included."""
        return tree_cpu_s(self.pid)

    def rss_bytes(self) -> int:
        """Return the resident memory of all its processes; pages that they share count for each."""
        return tree_rss_bytes(self.pid)


def grpc_body(model: str) -> bytes:
    message = Message(role=Role.ROLE_USER, content=PROMPT)
    return ChatRequest(model=model, messages=[message]).SerializeToString()


def json_body(model: str) -> bytes:
    """Return a chat as Ollama and OpenAI both read it."""
    messages = [{"role": "user", "content": PROMPT}]
    return json.dumps({"model": model, "stream": True, "messages": messages}).encode()


def installed(name: str) -> bool:
    return name.startswith("bare_aio") or install.installed(name)


@contextmanager
def litellm(upstream_url: str, models: Sequence[str], *, provider: str = "openai") -> Iterator[Peer]:
    """Run LiteLLM's proxy before an Ollama, for these models only. `provider`: one of PROVIDERS."""
    (port,), token = free_ports(1), f"sk-{secrets.token_urlsafe(32)}"
    with tempfile.TemporaryDirectory(prefix="ollamesh-litellm-") as home:
        config = Path(home) / "config.yaml"
        config.write_text(json.dumps(litellm_config(upstream_url, models, provider=provider), indent=2))
        command = litellm_command(port=port, config=config)
        with _running("litellm", command, env=litellm_environment(token, Path(home)), cwd=home) as pid:
            peer = Peer(name="litellm", port=port, pid=pid, protocol="sse", path=SSE_PATH, token=token)
            _until(peer, lambda: _answers_sse(peer, models[0]), within_s=LITELLM_START_TIMEOUT_S)
            yield peer


@contextmanager
def vllm_router(upstream_url: str, models: Sequence[str]) -> Iterator[Peer]:
    """Run vllm-router before an Ollama. It passes every model on; the first one is asked whether it answers."""
    port, metrics_port = free_ports(2)
    command = vllm_router_command(upstream_url, port=port, metrics_port=metrics_port)
    with _running("vllm_router", command, env={"PATH": "/usr/bin:/bin"}) as pid:
        peer = Peer(name="vllm_router", port=port, pid=pid, protocol="sse", path=SSE_PATH)
        _until(peer, lambda: _answers_sse(peer, models[0]), within_s=START_TIMEOUT_S)
        yield peer


@contextmanager
def bare_aio(*, raw: bool = False) -> Iterator[Peer]:
    """Run grpc.aio alone, which makes its tokens itself. `raw`: out of bytes instead of protobuf's messages."""
    (port,) = free_ports(1)
    name = "bare_aio_raw" if raw else "bare_aio"
    command = bare_aio_command(sys.executable, port=port, raw=raw)
    with _running(name, command, env={"PATH": "/usr/bin:/bin"}) as pid:
        peer = Peer(name=name, port=port, pid=pid, protocol="grpc", path=METHOD)
        _until(peer, lambda: _answers_grpc(peer), within_s=START_TIMEOUT_S)
        yield peer


@contextmanager
def _running(name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: str = "") -> Iterator[int]:
    """Start it with nothing of our environment, and end its whole tree. Yields the pid of its group's leader."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with log_of(name).open("wb") as log:
        process = subprocess.Popen(
            Guard().command(command),
            cwd=cwd or ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        family = [found for one in _tree(process.pid) if (found := identify(one.pid))]
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)
        _end(process, family)


def _end(process: subprocess.Popen[bytes], family: Sequence[Identity]) -> None:
    """Kill what is left of a tree whose leader was asked to end."""
    if process.poll() is None:
        process.kill()
        process.wait()
    end_all(family, within_s=KILL_TIMEOUT_S)


def log_of(name: str) -> Path:
    return LOGS / f"{name}.log"


def _tree(pid: int) -> list[psutil.Process]:
    leader = psutil.Process(pid)
    return [leader, *leader.children(recursive=True)]


def tree_cpu_s(pid: int) -> float:
    """Return the processor time of a process and of all that it started, those that have ended included."""
    return _tree_sum(pid, lambda process: sum(process.cpu_times()[:4]))


def tree_rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and of all that it started; pages that they share count for each."""
    return int(_tree_sum(pid, lambda process: process.memory_info().rss))


def _tree_sum(pid: int, measure: Callable[[psutil.Process], float]) -> float:
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):  # It has ended since.
            total += measure(process)
    return total


def _until(peer: Peer, answers: Callable[[], bool], *, within_s: float) -> None:
    end_s = time.monotonic() + within_s
    while not answers():
        if not _alive(peer.pid) or time.monotonic() > end_s:
            log = log_of(peer.name).read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
            raise PeerFailedError(f"{peer.name} does not answer; the end of its log:\n{log}")
        time.sleep(POLL_S)


def _alive(pid: int) -> bool:
    return identify(pid) is not None


def _answers_sse(peer: Peer, model: str) -> bool:
    """Ask for an answer, and leave at its first event."""
    connection = HTTPConnection("127.0.0.1", peer.port, timeout=ASK_TIMEOUT_S)
    try:
        headers = {"content-type": "application/json", **peer.headers}
        connection.request("POST", peer.path, peer.body(model), headers)
        response = connection.getresponse()
        return response.status == 200 and any(b'"choices"' in line for line in response)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _answers_grpc(peer: Peer) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{peer.port}") as channel:
        ask: Any = channel.unary_stream(peer.path)  # Its types do not know that bytes may stay bytes.
        try:
            return any(ask(peer.body("stub-n1-i0"), timeout=ASK_TIMEOUT_S))
        except grpc.RpcError:
            return False
