"""The servers that speak Ollama's wire, each in a process of its own, started once per test process."""

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from deploy.local.models.install import install

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 30.0
# Small, so that tests can fill them.
PARALLEL, WAITING_MAX = 2, 2

CHAT, EMBEDDING = "smollm2:135m", "all-minilm"
SHORT = {"temperature": 0, "num_predict": 8, "seed": 1}
HELLO = [{"role": "user", "content": "Say hello to all of the good people here today please."}]
# What a model goes on with until its tokens run out: longer than any test.
COUNTING = {
    "model": CHAT,
    "prompt": "1, 2, 3, 4, 5, 6, 7, 8,",
    "raw": True,
    "options": {"num_predict": 20_000},
}


@dataclass(frozen=True, slots=True)
class OllamaServer:
    url: str
    process: psutil.Process

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60.0)

    def async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=60.0)

    def runners(self) -> list[psutil.Process]:
        """The processes that hold models."""
        return self.process.children(recursive=True)


def models_folder() -> Path:
    """The models, installed if they are not."""
    cache = Path(os.environ.get("OLLAMESH_CACHE") or ROOT / ".ollamesh" / "cache")
    install(cache / "models")
    return cache / "models"


@contextlib.contextmanager
def runtime_server(models: Path | None = None, *, parallel: int = PARALLEL) -> Iterator[OllamaServer]:
    folder = str(models or models_folder())
    with _started("deploy.local.runtime", "--models", folder, parallel=parallel) as server:
        yield server


@contextlib.contextmanager
def fake_server() -> Iterator[OllamaServer]:
    # The pause gives a reply a length, as a model's has.
    with _started("tests.fakes.fake_ollama", "--token-ms", "5") as server:
        yield server


@contextlib.contextmanager
def machine_server() -> Iterator[OllamaServer]:
    """The fake with a machine: it takes its time by Ollama's rules."""
    models = (
        f"{CHAT},vram_gib=1,load_s=0.05,prefill=5000,token_ms=5,batch_cost=0.2",
        f"{EMBEDDING},vram_gib=1,load_s=0.05,prefill=50000",
    )
    flags = [flag for model in models for flag in ("--model", model)]
    with _started("tests.fakes.fake_ollama", *flags) as server:
        yield server


@contextlib.contextmanager
def _started(module: str, *arguments: str, parallel: int = PARALLEL) -> Iterator[OllamaServer]:
    command = [sys.executable, "-m", module, "--listen", "127.0.0.1:0", *arguments]
    limits = {"OLLAMA_NUM_PARALLEL": str(parallel), "OLLAMA_MAX_QUEUE": str(WAITING_MAX)}
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **limits}, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield OllamaServer(_url(process), psutil.Process(process.pid))
        finally:
            process.terminate()


def _url(process: subprocess.Popen[str]) -> str:
    """From the line that either prints when it is ready."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(START_WITHIN_S), "the server did not start in time"
    return process.stdout.readline().removeprefix("listening on ").strip()


def resident(http: httpx.Client, model: str = CHAT) -> dict[str, Any]:
    """The model as `ps` shows it; empty if it is not loaded."""
    models = http.get("/api/ps").json()["models"]
    return next((shown for shown in models if shown["model"] == model), {})


def eventually(holds: Callable[[], bool], *, within_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        time.sleep(0.02)
