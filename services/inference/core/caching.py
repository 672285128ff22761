"""Which answers may be kept, and given again. All that is not surely harmless is not."""

from services.inference.core.asks import Chat, Generate
from services.inference.core.callers import CachePolicy
from services.inference.core.canonical import is_deterministic


def may_look(ask: Chat | Generate, policy: CachePolicy) -> bool:
    """Whether an earlier answer would do: the caller said so, or none can differ from it.

    Tool calls are meant to have effects, each its own. Log probabilities are asked for by who looks at a model,
    and would make what is kept many times as long.
    """
    if policy is CachePolicy.NEVER or ask.logprobs or (isinstance(ask, Chat) and ask.tools):
        return False
    return policy is CachePolicy.ALWAYS or is_deterministic(ask)


def may_keep(
    *, stopped: bool, called_tools: bool, has_logprobs: bool, asked_of: str, answered_by: str
) -> bool:
    """Whether an answer that came to its end is one to give again.

    `asked_of` is the digest of the weights that it was looked up for; a tag may have moved since.
    """
    return stopped and not called_tools and not has_logprobs and asked_of == answered_by
