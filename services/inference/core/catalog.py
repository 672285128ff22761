"""How each model is run here: the operator's word, which no request changes.

Ollama reloads a model whenever the runner options of a request differ from those it was loaded with, and
keeps it for as long as the last request said. So both are a model's configuration, and every load and
every request carries the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.inference.core.names import is_name, key
from services.inference.core.options import Value
from services.inference.core.tables import Flag, Number, Row, Rule, Tables, Whole, shown

CONTEXT_TOKENS_MAX = 4_194_304  # As in completion.proto.
KEEP_ALIVE_S_MAX = 31_536_000  # A year: for ever, as far as a process is concerned.
MODELS_MAX = 10_000

# What a row may say of a model, by the names of configuration.
_RULES: Mapping[str, Rule] = {
    "context_tokens": Whole(1, CONTEXT_TOKENS_MAX),
    "slots": Whole(1, 1024),
    "keep_alive_s": Number(1, KEEP_ALIVE_S_MAX),
    "vram_bytes": Whole(1, 1 << 50),
    "pinned": Flag(),
}
# Ollama's runner options, by its names, but for num_ctx, which is `context_tokens`.
_RUNNER_RULES: Mapping[str, Rule] = {
    "num_batch": Whole(1, 1 << 20),
    "num_gpu": Whole(-1, 10_000),  # Layers; -1 is as many as fit.
    "main_gpu": Whole(0, 1024),
    "num_thread": Whole(0, 10_000),
    "use_mmap": Flag(),
    "draft_num_predict": Whole(0, 10_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """How one model is run. What is 0 or empty is left to the instance."""

    context_token_count: int = 0
    slots_max: int = 0  # At once on an instance.
    keep_alive_s: float = 0.0
    vram_bytes: int = 0  # What it needs when it is loaded.
    pinned: bool = False  # Whether every instance that has it is to keep it loaded.
    runner: Mapping[str, Value] = field(default_factory=dict)  # Without num_ctx.


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """How long a model stays loaded after a request, in seconds, and what a request may ask for."""

    min_s: float = 60.0
    default_s: float = 300.0
    max_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The configuration of all models, by key."""

    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    otherwise: ModelConfig = ModelConfig()
    keep_alive: KeepAlive = KeepAlive()

    def of(self, model: str) -> ModelConfig:
        return self.models.get(model, self.otherwise)

    def pinned(self) -> list[str]:
        """Return the keys of the models that are pinned by configuration."""
        return [model for model, config in self.models.items() if config.pinned]

    def runner(self, model: str) -> Mapping[str, Value]:
        """Return the options that a model is loaded with: the same for every load, request and probe."""
        config = self.of(model)
        context = {"num_ctx": config.context_token_count} if config.context_token_count else {}
        return {**context, **config.runner}

    def keep_alive_s(self, model: str, hint_s: float | None = None, *, pinned: bool = False) -> float:
        """Return how long a model is to stay loaded after a request; for ever if it is `pinned`.

        A caller's hint can keep it longer or give it up sooner within bounds, but not so soon that others
        who use it would have to wait for it again, and never sooner than its own configuration says. A
        negative hint is Ollama's "for ever" and gets the most.
        """
        if pinned:
            return KEEP_ALIVE_S_MAX
        configured_s = self.of(model).keep_alive_s
        if hint_s is None:
            return configured_s or self.keep_alive.default_s
        wanted_s = self.keep_alive.max_s if hint_s < 0 else hint_s
        return max(min(max(wanted_s, self.keep_alive.min_s), self.keep_alive.max_s), configured_s)


def read_models(text: str, *, otherwise: ModelConfig) -> tuple[Mapping[str, ModelConfig], list[str]]:
    """Return the models that a JSON table configures, and every mistake in it.

    What a row does not say is as `otherwise`.
    """
    tables = Tables()
    found: dict[str, ModelConfig] = {}
    rows = tables.rows(text)
    if len(rows) > MODELS_MAX:
        tables.mistakes.append(f"names more than {MODELS_MAX} models")
        rows = {}
    for name, row in rows.items():
        if not is_name(name):
            tables.mistakes.append(f"has a key that is no model's name: {shown(name)}")
        elif key(name) in found:
            tables.mistakes.append(f"names a model in two spellings: {shown(name)}")
        else:
            found[key(name)] = _model(tables, row, otherwise, where=shown(name))
    return found, tables.mistakes


def _model(tables: Tables, row: Row, otherwise: ModelConfig, *, where: str) -> ModelConfig:
    own = {name: value for name, value in row.items() if name != "runner"}
    said = tables.settings(own, _RULES, where=where)
    runner = tables.row(row.get("runner", {}), where=f"{where}.runner")
    if "num_ctx" in runner:
        tables.mistakes.append(f"has a num_ctx in {where}.runner: its name here is context_tokens")
        runner = {name: value for name, value in runner.items() if name != "num_ctx"}
    return ModelConfig(
        context_token_count=int(said.get("context_tokens", otherwise.context_token_count)),
        slots_max=int(said.get("slots", otherwise.slots_max)),
        keep_alive_s=said.get("keep_alive_s", otherwise.keep_alive_s),
        vram_bytes=int(said.get("vram_bytes", otherwise.vram_bytes)),
        pinned=bool(said.get("pinned", otherwise.pinned)),
        runner=tables.settings(runner, _RUNNER_RULES, where=f"{where}.runner"),
    )
