"""Whether a request is worth a place in a queue: everything that can be said before anybody waits."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.inference.core.asks import Ask, Chat, Embed, Generate, Options
from services.inference.core.bounds import Bounds, check
from services.inference.core.catalog import Catalog
from services.inference.core.ledger import Ledger, Model
from services.inference.core.names import key
from services.inference.core.options import Value, canonical
from services.inference.core.parts import parts, prefixes
from services.inference.core.prefixes import Prefix
from services.inference.errors import ContextTooLarge, ModelNotFound, ModelUnsuitable, NoInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An ask that was accepted: its model's key, what the instance gets beside it, and what it will cost."""

    ask: Ask
    model: str
    options: Mapping[str, Value]
    keep_alive_s: float
    prompt_token_count: int = 0  # An estimate.
    output_token_max: int = 0  # The caller's own limit; 0 is none.
    prefixes: tuple[Prefix, ...] = ()  # Of its prompt, the longest first.


def admit(ask: Ask, *, tenant: str, ledger: Ledger, bounds: Bounds, catalog: Catalog) -> Order:
    """Accept `ask`, or raise why not: a bound, an unknown model, one that cannot do this, none that is ready.

    `tenant` keeps the prefixes of one tenant's prompts from those of another's.
    """
    check(ask, bounds)
    model_key = key(ask.model)
    model = ledger.model(model_key)
    if model is None and ledger.any_ready():
        raise ModelNotFound(model=ask.model)
    if model is None or not model.ready:  # Nobody can say what the fleet has, or nobody has it ready.
        raise NoInstance(model=ask.model)
    _check_suitable(ask, model)
    asked = Options() if isinstance(ask, Embed) else ask.options
    _check_context(asked, catalog.of(model_key).context_token_count or model.context_token_count)
    runner = catalog.runner(model_key)
    found = parts(ask)
    return Order(
        ask=ask,
        model=model_key,
        options=runner if isinstance(ask, Embed) else canonical(asked, bounds=bounds, runner=runner),
        keep_alive_s=catalog.keep_alive_s(model_key, ask.keep_alive_s, pinned=model.pinned),
        prompt_token_count=sum(token_count for _, token_count in found),
        output_token_max=asked.output_token_count_max or 0,
        prefixes=prefixes(ask, tenant, model_key, found),
    )


def _check_suitable(ask: Ask, model: Model) -> None:
    has = model.card.capabilities
    for needed in _needs(ask):
        if has and needed not in has:
            raise ModelUnsuitable(model=ask.model, capability=needed)


def _needs(ask: Ask) -> list[str]:
    """The capabilities that `ask` needs, by Ollama's names."""
    match ask:
        case Embed():
            return ["embedding"]
        case Chat():
            sees, calls, fills = any(message.images for message in ask.messages), bool(ask.tools), False
        case Generate():
            sees, calls, fills = bool(ask.images), False, bool(ask.suffix)
    wanted = {
        "completion": True,
        "tools": calls,
        "vision": sees,
        "thinking": bool(ask.think),
        "insert": fills,
    }
    return [name for name, needed in wanted.items() if needed]


def _check_context(options: Options, allowed: int) -> None:
    """`allowed` is the context that the model has here; 0 if nobody can say."""
    if allowed and (options.context_token_count or 0) > allowed:
        raise ContextTooLarge(asked_token_count=options.context_token_count, allowed_token_count=allowed)
