"""When two requests are one: for whoever names them, and for whoever asks the same."""

import hashlib
from dataclasses import replace

from services.inference.core.asks import Chat, Embed, Generate
from services.inference.core.canonical import canonical, is_deterministic
from services.inference.core.secret_names import Names
from services.inference.streams.means import Asked


def is_shareable(ask: Chat | Generate) -> bool:
    """Whether an answer is anybody's who asks the same."""
    return is_deterministic(ask) and not (isinstance(ask, Chat) and ask.tools) and not ask.logprobs


def join_name(asked: Asked, names: Names) -> bytes | None:
    """Under which name the same request of the same tenant is found; None if it must be answered by itself."""
    ask, wishes = asked.order.ask, asked.wishes
    if isinstance(ask, Embed) or not is_shareable(ask):
        return None
    kind = f"join\0{asked.terms.priority.value}\0{wishes.by_token}\0".encode()
    return names.name(asked.terms.tenant, kind + asked.canonical)


def body_hash(asked: Asked) -> str:
    """What a request is, but for the name that its caller has given it."""
    wishes = replace(asked.wishes, request_id="")
    body = canonical(asked.order, model_digest="") + repr((asked.order.model, wishes)).encode()
    return hashlib.sha256(body).hexdigest()[:32]
