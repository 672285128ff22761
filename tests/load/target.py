"""What is loaded: a stack of the run's own, before models of its own or fake ones, or the one that is running."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal, Self

import psutil

from deploy.local import stack as local
from deploy.local.ports import free_ports
from deploy.local.secret_files import SecretFiles
from deploy.local.settings import Settings
from tests.bench.support.peers import tree_cpu_s, tree_rss_bytes
from tests.bench.support.report import ROOT
from tests.bench.support.stack import stack
from tests.load.record import Cost, Models

MEMORY_EVERY_S = 0.5
Source = Literal["embedded", "fake", "running"]
# A modelled server with one GPU: a small chat model that writes 80 tokens a second for a request that is alone, a tenth slower with
# each further one; prompts of 300 tokens, answers of 150. Whatever the names say, for the fake knows cards of these.
FAKE_MODELS = (
    "smollm2:135m,vram_gib=4,load_s=2.5,prefill=8000,token_ms=12.5,batch_cost=0.1",
    "all-minilm,vram_gib=1,load_s=1,prefill=20000,token_ms=1",
)
FAKE = Models(tool="", tail=" [read 300] [write 150]", output_max=150)


class TargetError(Exception):
    """There is nothing to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    edge: str
    password: str = field(repr=False)
    models: Models
    pids: Mapping[str, int]  # Of the parts, by name.


@contextmanager
def target(source: Source, *, gpus: int, slots: int, profiles: str = "python") -> Iterator[Target]:
    """Of `gpus` fake instances with `slots` each, or one embedded runtime; certificates and all, as users have it."""
    with ExitStack() as opened:
        if source == "running":
            yield _of(Settings.from_env(), Models())
            return
        settings = {"OLLAMESH_INSECURE_INSIDE": "false", "OLLAMESH_SANDBOX_PROFILES": profiles}
        models = Models()
        if source == "fake":
            urls = [opened.enter_context(_fake_ollama(slots)) for _ in range(gpus)]
            settings |= {"OLLAMA_HOSTS": ",".join(urls), "OLLAMESH_INSTANCE_SLOTS": str(slots)}
            models = FAKE
        else:
            settings["OLLAMESH_EMBEDDED_MODELS"] = "true"
        running = opened.enter_context(stack(**settings))
        yield _of(Settings.from_env(running.environment), models)


class Watch:
    """What each part costs while the block lasts: processor time, and the most memory that was seen."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._cpu_s = {name: tree_cpu_s(pid) for name, pid in pids.items()}
        self._memory = dict.fromkeys(pids, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def costs(self) -> Mapping[str, Cost]:
        return {
            name: Cost(cpu_s=tree_cpu_s(pid) - self._cpu_s[name], memory_max_bytes=self._memory[name])
            for name, pid in self._pids.items()
        }

    def _look(self) -> None:
        while not self._over.wait(MEMORY_EVERY_S):
            for name, pid in self._pids.items():
                self._memory[name] = max(self._memory[name], tree_rss_bytes(pid))


def _of(settings: Settings, models: Models) -> Target:
    status = local.status(settings)
    if not status.ready or status.edge is None:
        raise TargetError(f"no stack is ready in {settings.home}; start one with `make up`")
    pids = {
        part.name: part.pid for part in status.parts if part.pid is not None and psutil.pid_exists(part.pid)
    }
    password = SecretFiles(settings.home).read("admin_password")
    return Target(edge=status.edge, password=password, models=models, pids=pids)


@contextmanager
def _fake_ollama(slots: int) -> Iterator[str]:
    (port,) = free_ports(1)
    arguments = [f"--model={model}" for model in FAKE_MODELS]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.fakes.fake_ollama",
            f"--listen=127.0.0.1:{port}",
            "--vram-gib=24",
            *arguments,
        ],
        cwd=ROOT,
        env={**_plain_environment(), "OLLAMA_NUM_PARALLEL": str(slots)},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise TargetError("the fake Ollama did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _plain_environment() -> Mapping[str, str]:
    """Without what a person has set for a real Ollama."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA")}
