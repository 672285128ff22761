"""A request's `options`: checked as Ollama checks them, and put into llama.cpp's words.

Ollama's order of strictness is kept: a wrong type fails the request, an unknown name is ignored. Options
that only concern a GPU or the loading of a file are checked and have no effect here; `num_ctx` alone
decides how the model is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from deploy.local.runtime.errors import OptionTypeError

INTEGERS = frozenset(
    {
        "num_keep", "seed", "num_predict", "top_k", "repeat_last_n",
        "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict",
    }
)  # fmt: skip
FLOATS = frozenset(
    {
        "top_p", "min_p", "typical_p", "temperature",
        "repeat_penalty", "presence_penalty", "frequency_penalty",
    }
)  # fmt: skip

DEFAULTS: Mapping[str, int | float] = MappingProxyType(
    {
        "num_keep": 4, "seed": -1, "num_predict": -1, "top_k": 40, "top_p": 0.9, "min_p": 0.0,
        "typical_p": 1.0, "repeat_last_n": 64, "temperature": 0.8, "repeat_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0,
    }
)  # fmt: skip
# The rest have the same name on both sides.
LLAMA_NAMES = {"num_keep": "n_keep", "num_predict": "n_predict"}
# "Until the model stops" needs an end all the same; Ollama allows ten full contexts.
PREDICT_CONTEXTS_MAX = 10


@dataclass(frozen=True, slots=True)
class Options:
    numbers: Mapping[str, int | float]  # Those that the request gave, under Ollama's names.
    stop: Sequence[str] = ()

    @property
    def context_length(self) -> int | None:
        """Tokens, if the request says."""
        wanted = int(self.numbers.get("num_ctx", 0))
        return wanted if wanted > 0 else None

    @property
    def predict_max(self) -> int | None:
        """Tokens to generate at most; None: until the model stops."""
        wanted = int(self.numbers.get("num_predict", -1))
        return wanted if wanted >= 0 else None

    def sampling(self, *, context_length: int) -> dict[str, object]:
        """llama.cpp's parameters of one completion; the number of tokens is always bounded."""
        numbers = {name: self.numbers.get(name, default) for name, default in DEFAULTS.items()}
        limit = PREDICT_CONTEXTS_MAX * context_length
        numbers["num_predict"] = limit if self.predict_max is None else min(self.predict_max, limit)
        llama: dict[str, object] = {LLAMA_NAMES.get(name, name): value for name, value in numbers.items()}
        return {**llama, "stop": list(self.stop)}


def parse_options(raw: Mapping[str, object] | None) -> Options:
    """Raises OptionTypeError. Nulls and unknown names are left out."""
    numbers: dict[str, int | float] = {}
    stop: Sequence[str] = ()
    for name, value in (raw or {}).items():
        if value is None:
            continue
        if name in INTEGERS:
            numbers[name] = int(_number(name, value, "integer"))  # Go truncates as well.
        elif name in FLOATS:
            numbers[name] = float(_number(name, value, "float32"))
        elif name == "use_mmap" and not isinstance(value, bool):
            raise OptionTypeError(name, "of type boolean")
        elif name == "stop":
            stop = _strings(name, value)
    return Options(numbers, stop)


def _number(name: str, value: object, wanted: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionTypeError(name, f"of type {wanted}")
    return value


def _strings(name: str, value: object) -> Sequence[str]:
    if not isinstance(value, list):
        raise OptionTypeError(name, "of type array")
    if not all(isinstance(item, str) for item in value):
        raise OptionTypeError(name, "of an array of strings")
    return value
