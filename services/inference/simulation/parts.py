"""What goes into the model of an Ollama server, and what comes out: values only.

Times are seconds of any clock that only rises; the caller's.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TypeAlias

RunnerOptions: TypeAlias = tuple[tuple[str, object], ...]  # Compared as they are: sort them.


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a model costs on this machine."""

    name: str
    vram_bytes: int
    load_s: float
    prefill_tokens_per_s: float  # Shared by all prompts that are being read.
    token_s: float  # Between two tokens of a request that is alone on the machine.
    # With n requests at work a token takes token_s * (1 + batch_cost * (n - 1)). Below 1, a batch pays.
    batch_cost: float
    parallel_max: int = 0  # Ollama gives some families fewer slots than the machine has; 0: no fewer.


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """One Ollama server with one GPU."""

    name: str
    vram_bytes: int
    parallel: int  # OLLAMA_NUM_PARALLEL: slots of each loaded model.
    max_queue: int = 512  # OLLAMA_MAX_QUEUE: requests that need a load, behind the one whose turn it is.
    keep_alive_s: float = 300.0  # OLLAMA_KEEP_ALIVE; negative: for ever.
    loaded_max: int = 0  # OLLAMA_MAX_LOADED_MODELS; 0 is Ollama's three per GPU.


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a prompt. Blocks with equal keys are the same tokens; others share none."""

    key: str
    token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Without output it is an embedding; with neither prompt nor output, only its model is loaded."""

    id: int
    model: str
    runner: RunnerOptions = ()
    prompt: tuple[Block, ...] = ()
    output_token_count: int = 0
    keep_alive_s: float | None = None  # Negative: for ever. None: as it was.
    answer_key: str = ""  # Of the block that its answer is in later prompts; "" makes it one of its own.

    @property
    def only_loads(self) -> bool:
        return not self.prompt and not self.output_token_count


class Refusal(StrEnum):
    BUSY = "busy"  # 503: too many wait for a load.
    UNREACHABLE = "unreachable"  # No connection at all.


class UnloadCause(StrEnum):
    EXPIRED = "expired"  # Its keep_alive has passed, or was zero.
    ASKED = "asked"
    PRESSURE = "pressure"  # Another model needs its room.
    RELOAD = "reload"  # A request has other runner options.


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model is in memory."""

    at_s: float
    model: str
    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unloaded:
    at_s: float
    model: str
    cause: UnloadCause


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    at_s: float
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An answer's end, with the counts and durations of Ollama's last object. Waiting for a slot is in none."""

    at_s: float
    id: int
    model: str
    load_s: float  # From arrival until the model was there, waiting for its turn included.
    prompt_token_count: int  # With those that were reused.
    prompt_s: float
    output_token_count: int
    output_s: float
    reused_token_count: int  # Not on the wire.
    slot_wait_s: float  # Not on the wire either.


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    at_s: float
    id: int
    reason: Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A request that was left holds nothing any more."""

    at_s: float
    id: int


Event: TypeAlias = Loaded | Unloaded | FirstToken | Finished | Refused | Left


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model in memory, or on its way there, as `ps` shows it."""

    model: str
    runner: RunnerOptions
    vram_bytes: int
    ready: bool
    busy_count: int
    waiting_count: int
    expires_at_s: float = inf
