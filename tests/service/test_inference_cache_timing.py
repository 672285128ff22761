"""Nobody can find out by the time that an answer takes what another tenant has asked (C4).

In pairs: tenant B asks for what A has cached, and for what nobody has, in an order that is drawn for each pair, so that
whatever else the machine does hits both alike. The same is done with what B itself has cached: there the test must see
a difference, or it could see none at all.

A test at p > 0.01 fails once in a hundred runs by chance, so it is repeated up to twice with new texts. A leak of the
size that the control shows would fail every time.
"""

import random
import time
from collections.abc import Awaitable, Callable

import pytest
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from tests.service.inference_app import Service, one_instance
from tests.service.rank_sums import p_value
from tests.service.test_inference_embed import KEYS, cached

PAIRS = 200
TRIES = 3
P_MIN = 0.01
A, B = "org-a", "org-b"


async def embed_s(service: Service, text: str, *, org: str) -> float:
    began_s = time.perf_counter()
    await service.call("Embed", EmbedRequest(model="tiny", input=[text]), org=org)
    return time.perf_counter() - began_s


async def paired(
    one: Callable[[int], Awaitable[float]], other: Callable[[int], Awaitable[float]], *, seed: int
) -> float:
    """Return the p value of a difference between both."""
    chance = random.Random(seed)
    times_s: dict[bool, list[float]] = {True: [], False: []}
    for number in range(PAIRS):
        for first in chance.sample([True, False], 2):
            times_s[first].append(await (one if first else other)(number))
    return p_value(times_s[True], times_s[False])


@pytest.mark.timeout(300)
async def test_what_another_tenant_has_cached_is_as_slow_as_what_nobody_has(redis_url: str) -> None:
    async with one_instance(REDIS_URL=redis_url, embed_batch_delay_s=0, **KEYS) as (service, _):
        found = []
        for number in range(TRIES):
            texts = [f"text {number:02} {place:04}" for place in range(PAIRS)]
            await cached(service, *texts, org=A)
            found.append(
                await paired(
                    lambda place, texts=texts: embed_s(service, texts[place], org=B),  # type: ignore[misc]
                    lambda place, number=number: embed_s(service, f"none {number:02} {place:04}", org=B),  # type: ignore[misc]
                    seed=number,
                )
            )
            if found[-1] > P_MIN:
                break
        assert found[-1] > P_MIN, found

        own = [f"own_ 00 {place:04}" for place in range(PAIRS)]
        await cached(service, *own, org=B)
        control = await paired(
            lambda place: embed_s(service, own[place], org=B),
            lambda place: embed_s(service, f"none 99 {place:04}", org=B),
            seed=99,
        )
        assert control < P_MIN, "the test could not have seen a leak"
