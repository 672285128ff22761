"""When two requests are the same, and when the same request has the same answer."""

from dataclasses import replace

from services.inference.core.admission import Order
from services.inference.core.asks import Ask, Chat, Embed, Generate

# Raised whenever the same request may be answered otherwise than before: by another canonical form, for one.
POLICY_VERSION = 1


def is_deterministic(ask: Chat | Generate) -> bool:
    """Whether a model always answers this in the same way: it never samples, or with a given seed.

    A negative seed asks Ollama to draw one.
    """
    seed = ask.options.seed
    return ask.options.temperature == 0 or (seed is not None and seed >= 0)


def canonical(order: Order, *, model_digest: str) -> bytes:
    """Return the same bytes for orders that are the same to these weights, and other bytes for all others.

    What is only a hint, and changes no answer, is not in it.
    """
    options = sorted(order.options.items())
    # A frozen dataclass's repr is complete and unambiguous: all strings in it are quoted.
    return repr((POLICY_VERSION, model_digest, options, _without_hints(order.ask))).encode(
        errors="surrogatepass"
    )


def _without_hints(ask: Ask) -> Ask:
    """The model's name is one: a tag and its alias have the same weights, and templates."""
    match ask:
        case Chat():
            return replace(ask, model="", keep_alive_s=None, conversation_id="")
        case Generate() | Embed():
            return replace(ask, model="", keep_alive_s=None)
