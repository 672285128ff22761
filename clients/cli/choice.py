"""Which model a command uses when nobody says, and what help it needs."""

from collections.abc import Iterable

from ollamesh.client import Client, runs
from ollamesh.client.fleet import Model

from clients.cli.failures import Failure

# The model of the embedded runtime. It is real, but too small to choose a tool by itself, or to stop.
EMBEDDED_MODEL = "smollm2:135m"
TOOL = "run_python"
# The runtime holds its calls to the shape of a call, but what is in them the model learns from examples.
# With these it writes powers as programs, and at temperature 0 answers with what they print.
EMBEDDED_SYSTEM_PROMPT = """\
Answer with Python.
Q: What is 2 + 3?
A: {"name":"run_python","arguments":{"code":"print(2 + 3)"}}
Q: What is 3 to the power of 5?
A: {"name":"run_python","arguments":{"code":"print(3 ** 5)"}}
Q: What is 2 to the power of 8?
A: {"name":"run_python","arguments":{"code":"print(2 ** 8)"}}"""


def best_of(models: Iterable[Model]) -> Model | None:
    """The model to talk to: a capable one before the embedded one, then what is loaded, then the smallest."""
    # An older Ollama does not say what a model can do.
    able = (model for model in models if not model.capabilities or "completion" in model.capabilities)
    return min(
        able,
        key=lambda model: (
            model.name == EMBEDDED_MODEL,
            "tools" not in model.capabilities,
            not model.resident_instances,
            model.size_bytes,
            model.name,
        ),
        default=None,
    )


async def choose_model(client: Client, wanted: str | None) -> str:
    """The wanted model, or the best one. Raises Failure if there is none."""
    if wanted:
        return wanted
    if (model := best_of(await client.models())) is None:
        raise Failure("the mesh has no model that can talk; `ollamesh models ls` lists what it has")
    return model.name


def config_for(model: str) -> runs.Config:
    """How an agent on `model` is to work. Only the embedded one is led by the hand."""
    if model != EMBEDDED_MODEL:
        return runs.Config(model=model, tools=(TOOL,))
    return runs.Config(
        model=model,
        tools=(TOOL,),
        first_tool=TOOL,
        system_prompt=EMBEDDED_SYSTEM_PROMPT,
        temperature=0,
        seed=1,
        step_count_max=3,
        output_token_count_per_call_max=128,
    )
