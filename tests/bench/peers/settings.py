"""How each peer is run: as its own documentation recommends, and without what costs time and serves nobody here.

Sources: LiteLLM's "Production Best Practices", "Server Tuning" and "Latency Overhead Troubleshooting"; the help text of
vllm-router 0.1.17.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.peers.install import python

# LiteLLM's ways to an Ollama. The first two speak to its OpenAI-compatible side, one through OpenAI's own library and
# one without, which here cost a fifth less processor time for each token; the third speaks Ollama's own protocol.
# `aiohttp_openai`, its quickest by name, cannot stream: it takes events for one JSON document and fails.
PROVIDERS = ("openai", "hosted_vllm", "ollama_chat")


def litellm_config(upstream_url: str, models: Sequence[str], *, provider: str = "openai") -> dict[str, Any]:
    """Return the file that LiteLLM reads. YAML is what it expects, and JSON is YAML."""
    base_url = upstream_url if provider == "ollama_chat" else f"{upstream_url}/v1"
    return {
        # Named one by one: a wildcard is matched by pattern on every request.
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {"model": f"{provider}/{model}", "api_base": base_url, "api_key": "unused"},
            }
            for model in models
        ],
        "litellm_settings": {
            "set_verbose": False,  # Debug logs are what the documentation calls the first cause of latency.
            "json_logs": False,
            "callbacks": [],  # Nobody is told about requests.
            "request_timeout": 600,  # What it recommends; by default 6,000 s.
            "num_retries": 0,
        },
        "router_settings": {
            "routing_strategy": "simple-shuffle",  # "Recommended for best performance".
            "num_retries": 0,
            "disable_cooldowns": True,  # One upstream, and nowhere else to go.
            "enable_pre_call_checks": False,
        },
        # There is no database; these keep it from preparing rows for one.
        "general_settings": {"disable_spend_logs": True, "disable_error_logs": True},
    }


def litellm_environment(token: str, home: Path) -> Mapping[str, str]:
    """Return the whole environment: a program from elsewhere gets nothing of ours."""
    return {
        "PATH": f"{python('litellm').parent}:/usr/bin:/bin",
        "HOME": str(home),
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",  # No search for .env files.
        # It does not start without one. Without a database it only compares each caller's with it, in memory.
        "LITELLM_MASTER_KEY": token,
        # By default it fetches each of these from the network when it starts, and waits for that.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
        "LITELLM_LOCAL_BLOG_POSTS": "True",
        "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
        "DISABLE_ADMIN_UI": "True",  # Less to load; nobody looks.
        "NO_DOCS": "True",
    }


def litellm_command(*, port: int, config: Path) -> tuple[str, ...]:
    """Return it with uvicorn, on uvloop and httptools, as uvicorn does by itself where they are installed.

    `--run_granian`, a beta, was no better here: tokens were on their way a fifth longer, at the same processor time,
    and its second process doubles the memory.
    """
    return (
        *(str(python("litellm").with_name("litellm")), "--host", "127.0.0.1", "--port", str(port)),
        *("--config", str(config), "--telemetry", "False"),
        *("--num_workers", "1"),  # What is compared is one process with one process.
        *("--keepalive_timeout", "75"),  # By default 5 s; a closed connection costs the next request.
    )


def vllm_router_command(upstream_url: str, *, port: int, metrics_port: int) -> tuple[str, ...]:
    """Return it for one worker. The wheel's program is a launcher; the router is Rust, in the same process."""
    return (
        *(str(python("vllm_router").with_name("vllm-router")), "--host", "127.0.0.1", "--port", str(port)),
        *("--worker-urls", upstream_url),
        *("--policy", "round_robin"),  # The default keeps a tree of prompts.
        *("--disable-retries", "--disable-circuit-breaker"),  # Nobody else could be asked.
        *("--log-level", "error"),
        *("--worker-startup-check-interval", "1"),  # By default it looks for its worker every 30 s.
        *("--health-check-interval-secs", "3600"),  # None during a benchmark.
        *("--prometheus-port", str(metrics_port)),  # It cannot be without; the default is one for all.
    )


def bare_aio_command(interpreter: str, *, port: int, raw: bool) -> tuple[str, ...]:
    return (interpreter, "-m", "tests.bench.peers.bare_aio", str(port), *(("--raw",) if raw else ()))
