"""A request's options as Ollama gets them: one canonical form, and never a reason to reload a model.

Ollama's options are of two kinds. Sampling options are the caller's. Runner options (num_ctx, num_gpu,
...) are what a model is loaded with, and Ollama reloads it whenever a request's differ; so they come from
the model's configuration alone (core/catalog.py), and what a caller says of them is a need to be checked,
not an option to be passed on.
"""

from collections.abc import Mapping

from services.inference.core.asks import Options
from services.inference.core.bounds import Bounds

Value = float | int | list[str]  # A bool is an int.


def canonical(options: Options, *, bounds: Bounds, runner: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return the options of one request, by Ollama's names, in a fixed order."""
    return {**_sampling(options, bounds), **runner}


def _sampling(options: Options, bounds: Bounds) -> Mapping[str, Value]:
    """`num_predict` is always there: without it, a model that loops holds its slot until the caller leaves."""
    sampling: dict[str, Value | None] = {
        # Adding zero turns -0.0, which is the same temperature in other bytes, into 0.0.
        "temperature": None if options.temperature is None else options.temperature + 0.0,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "seed": options.seed,
        "num_predict": options.output_token_count_max or bounds.output_token_count_max,
        "stop": list(options.stop) or None,
        "repeat_penalty": options.repeat_penalty,
        "repeat_last_n": options.repeat_last_token_count,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    return {name: value for name, value in sampling.items() if value is not None}
