"""Every knob of the runtime, under the names Ollama gave them, read once."""

import os
from dataclasses import dataclass
from typing import Self

from deploy.local.runtime.errors import MalformedBodyError
from deploy.local.runtime.wire.durations import keep_alive_s
from services.common.config import ConfigError, Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    parallel: int = 4  # Requests that one model serves together.
    waiting_max: int = 512  # Requests that may wait for one model.
    keep_alive_s: float = 300.0  # How long an idle model stays loaded.
    load_timeout_s: float = 300.0
    context_length: int | None = None  # Tokens; None: each model's own default.
    thread_count: int = 1

    @classmethod
    def from_env(cls, env: Environment) -> Self:
        """Raises ConfigError."""
        config = cls(
            parallel=env.integer("OLLAMA_NUM_PARALLEL", 4, low=1, high=64),
            waiting_max=env.integer("OLLAMA_MAX_QUEUE", 512, low=1),
            keep_alive_s=_keep_alive_s(env.text("OLLAMA_KEEP_ALIVE", "5m")),
            context_length=env.integer("OLLAMA_CONTEXT_LENGTH", 0, high=2**20) or None,
            thread_count=len(os.sched_getaffinity(0)),
        )
        env.check()
        return config


def _keep_alive_s(text: str) -> float:
    try:
        return keep_alive_s(float(text)) if text.removeprefix("-").isdecimal() else keep_alive_s(text)
    except MalformedBodyError as error:
        raise ConfigError(["OLLAMA_KEEP_ALIVE is not a duration like 5m"]) from error
