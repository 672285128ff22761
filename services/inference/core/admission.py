"""Whether a request is worth a place in a queue: everything that can be said before anybody waits."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.inference.core.asks import Ask, Chat, Embed, Generate, Options
from services.inference.core.bounds import Bounds, check
from services.inference.core.ledger import Ledger, Model
from services.inference.core.names import key
from services.inference.core.options import Value, canonical, runner
from services.inference.errors import ContextTooLarge, ModelNotFound, ModelUnsuitable, NoInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An ask that was accepted: its model's key, and the options that the instance gets."""

    ask: Ask
    model: str
    options: Mapping[str, Value]


def admit(ask: Ask, *, ledger: Ledger, bounds: Bounds) -> Order:
    """Accept `ask`, or raise why not: a bound, an unknown model, one that cannot do this, none that is ready."""
    check(ask, bounds)
    model_key = key(ask.model)
    model = ledger.model(model_key)
    if model is None and ledger.any_ready():
        raise ModelNotFound(model=ask.model)
    if model is None or not model.ready:  # Nobody can say what the fleet has, or nobody has it ready.
        raise NoInstance(model=ask.model)
    _check_suitable(ask, model)
    if isinstance(ask, Embed):
        return Order(ask=ask, model=model_key, options=runner(bounds))
    _check_context(ask.options, model, bounds)
    return Order(ask=ask, model=model_key, options=canonical(ask.options, bounds))


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


def _check_context(options: Options, model: Model, bounds: Bounds) -> None:
    allowed = bounds.context_token_count or model.context_token_count
    if allowed and (options.context_token_count or 0) > allowed:
        raise ContextTooLarge(asked_token_count=options.context_token_count, allowed_token_count=allowed)
