"""The whole mesh for a benchmark: its own home, free ports, the public commands only."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.settings import DEFAULT_PORTS, port_variable
from tests.bench.support.report import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    port: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    edge: str  # host:port
    token: str
    parts: Mapping[str, Part]  # Those that run on, by name.
    environment: Mapping[str, str] = field(repr=False)

    def new_token(self) -> str:
        """Return a token with all of its ten minutes before it."""
        return _run(self.environment, str(Path(sys.executable).with_name("ollamesh")), "token").strip()


@contextmanager
def stack(**settings: str) -> Iterator[Stack]:
    """A mesh with `settings` in its environment, taken down at the end."""
    with tempfile.TemporaryDirectory(prefix="ollamesh-bench-") as home:
        cache = os.environ.get("OLLAMESH_CACHE", str(ROOT / ".ollamesh" / "cache"))
        env = {
            **os.environ,
            **{port_variable(name): "0" for name in DEFAULT_PORTS},
            "OLLAMESH_HOME": home,
            "OLLAMESH_CACHE": cache,
            # The load generator, and what is compared with, speak plain text. bench-inside says what mTLS costs.
            "OLLAMESH_INSECURE_INSIDE": "true",
            **settings,
        }
        Path(home).chmod(0o755)
        _run(env, "-m", "deploy.local", "up")
        try:
            status = json.loads(_run(env, "-m", "deploy.local", "status", "--json"))
            token = _run(env, str(Path(sys.executable).with_name("ollamesh")), "token").strip()
            parts = {
                part["name"]: Part(port=part["port"], pid=part["pid"])
                for part in status["parts"]
                if part["port"] and part["pid"]
            }
            yield Stack(edge=urlsplit(status["edge"]).netloc, token=token, parts=parts, environment=env)
        finally:
            _run(env, "-m", "deploy.local", "down")


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that ends with the block."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _run(env: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
