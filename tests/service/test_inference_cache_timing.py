"""Nobody can find out by the time that an answer takes what another tenant has asked (C4).

In pairs: tenant B asks for what A has cached, and for what nobody has, in an order that is drawn for each pair, so that
whatever else the machine does hits both alike. The same is done with what B itself has cached: there the test must see
a difference, or it could see none at all.

A test at p > 0.01 fails once in a hundred runs by chance, so it is repeated up to twice with new texts. A leak of the
size that the control shows would fail every time.
"""

import random
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from tests.service.inference_app import Service, events_of, one_instance
from tests.service.rank_sums import p_value
from tests.service.test_inference_cached_answers import cached as answer_cached
from tests.service.test_inference_embed import KEYS, cached

PAIRS = 200
TRIES = 3
P_MIN = 0.01
A, B = "org-a", "org-b"


Ask = Callable[[Service, str, str], Awaitable[None]]


async def embed(service: Service, text: str, org: str) -> None:
    await service.call("Embed", EmbedRequest(model="tiny", input=[text]), org=org)


async def chat(service: Service, text: str, org: str) -> None:
    await events_of(service.chat(text, options=pb.Options(temperature=0), org=org))


async def embed_all(service: Service, texts: Sequence[str], org: str) -> None:
    await cached(service, *texts, org=org)


async def chat_all(service: Service, texts: Sequence[str], org: str) -> None:
    """Have all answers cached; what is kept is kept in the order in which it came."""
    for text in texts:
        await chat(service, text, org)
    await answer_cached(service, texts[-1], org=org)


async def difference(
    service: Service, ask: Ask, some: Sequence[str], others: Sequence[str], *, seed: int
) -> float:
    """Return the p value of a difference between the times that B waits for some texts and for others."""
    chance = random.Random(seed)
    times_s: tuple[list[float], list[float]] = ([], [])
    for pair in zip(some, others, strict=True):
        for which in chance.sample([0, 1], 2):
            began_s = time.perf_counter()
            await ask(service, pair[which], B)
            times_s[which].append(time.perf_counter() - began_s)
    return p_value(*times_s)


def texts(name: str, number: int = 0) -> list[str]:
    """As long as any others, and none of them a text of another name or number."""
    return [f"{name:8} {number:02} {place:04}" for place in range(PAIRS)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("ask", "have_cached"), [(embed, embed_all), (chat, chat_all)], ids=["embed", "chat"]
)
@pytest.mark.timed
async def test_what_another_tenant_has_cached_is_as_slow_as_what_nobody_has(
    redis_url: str, ask: Ask, have_cached: Callable[[Service, Sequence[str], str], Awaitable[None]]
) -> None:
    async with one_instance(REDIS_URL=redis_url, embed_batch_delay_s=0, **KEYS) as (service, _):
        found: list[float] = []
        while not found or (found[-1] <= P_MIN and len(found) < TRIES):
            number = len(found)
            await have_cached(service, texts("theirs", number), A)
            found.append(
                await difference(service, ask, texts("theirs", number), texts("nobodys", number), seed=number)
            )
        assert found[-1] > P_MIN, found

        await have_cached(service, texts("own"), B)
        control = await difference(service, ask, texts("own"), texts("nobodys", 99), seed=99)
        assert control < P_MIN, "the test could not have seen a leak"
