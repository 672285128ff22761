"""The Ollama servers that the service runs itself: one for each GPU, each with an environment of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.core.endpoints import Endpoint

# What an operator may set for Ollama, and what any program needs. Not passed on: what names other servers, what
# holds keys, and OLLAMA_DEBUG, with which Ollama writes prompts to its log.
PASSED_ON = (
    *("PATH", "HOME", "USER", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("OLLAMA_MODELS", "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_KEEP_ALIVE", "OLLAMA_MAX_QUEUE"),
    *("OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_CONTEXT_LENGTH", "OLLAMA_LOAD_TIMEOUT"),
    *("OLLAMA_GPU_OVERHEAD", "OLLAMA_LLM_LIBRARY", "OLLAMA_NOPRUNE", "OLLAMA_NEW_ENGINE"),
)
# Which models are in memory is the scheduler's to decide: of itself Ollama keeps three on a GPU, whatever their size.
DEFAULTS = {"OLLAMA_MAX_LOADED_MODELS": "64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One `ollama serve`."""

    endpoint: Endpoint
    gpu: str  # As CUDA_VISIBLE_DEVICES has it.
    variables: Mapping[str, str]  # Its whole environment.

    @property
    def name(self) -> str:
        """What the instance is called everywhere."""
        return self.endpoint.name


def plan_servings(
    gpus: Sequence[str], *, port: int, slots: int, inherited: Mapping[str, str]
) -> tuple[Serving, ...]:
    """Return what is to run, on `port` and those that follow it."""
    return tuple(
        _serving(Endpoint(host="127.0.0.1", port=port + place), gpu, slots, inherited)
        for place, gpu in enumerate(gpus)
    )


def _serving(endpoint: Endpoint, gpu: str, slots: int, inherited: Mapping[str, str]) -> Serving:
    variables = DEFAULTS | {name: inherited[name] for name in PASSED_ON if name in inherited}
    variables |= {
        "OLLAMA_HOST": endpoint.authority,
        "OLLAMA_NUM_PARALLEL": str(slots),
        "CUDA_VISIBLE_DEVICES": gpu,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # CUDA's own order is another than that of nvidia-smi.
    }
    return Serving(endpoint=endpoint, gpu=gpu, variables=variables)
