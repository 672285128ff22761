"""How many streams are open at once, counted in Redis: a sorted set for each subject, of streams by the ends of their leases."""

from collections.abc import Mapping, Sequence

from services.inference.adapters.redis_link import Command, RedisAway, RedisLink
from services.inference.streams_at_once import CountsAway, Place

_NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)"
# All places or none, and by the clock of Redis.
_ENTER = f"""
{_NOW}
for place, key in ipairs(KEYS) do
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    if redis.call('ZCARD', key) >= tonumber(ARGV[2 + place]) then return place - 1 end
end
for _, key in ipairs(KEYS) do
    redis.call('ZADD', key, now + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', key, ARGV[2])
end
return -1
"""
_RENEW = f"""
{_NOW}
for _, key in ipairs(KEYS) do
    redis.call('ZADD', key, now + ARGV[2], ARGV[1])
    redis.call('PEXPIRE', key, ARGV[2])
end
"""


class RedisStreamCounts:
    """Implements streams_at_once.SharedCounts."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def enter(self, name: str, places: Sequence[Place], *, lease_s: float) -> int:
        limits = [place.limit for place in places]
        try:
            (answer,) = await self._link.ask(
                ("EVAL", _ENTER, len(places), *_keys(places), name, round(lease_s * 1000), *limits)
            )
        except RedisAway:
            raise CountsAway from None
        return int(answer)

    async def renew(self, held: Mapping[str, Sequence[Place]], *, lease_s: float) -> None:
        lease_ms = round(lease_s * 1000)
        commands: list[Command] = [
            ("EVAL", _RENEW, len(places), *_keys(places), name, lease_ms) for name, places in held.items()
        ]
        try:
            await self._link.ask(*commands)
        except RedisAway:
            raise CountsAway from None

    async def leave(self, left: Mapping[str, Sequence[Place]]) -> None:
        commands: list[Command] = [
            ("ZREM", key, name) for name, places in left.items() for key in _keys(places)
        ]
        try:
            await self._link.ask(*commands)
        except RedisAway:
            raise CountsAway from None


def _keys(places: Sequence[Place]) -> list[bytes]:
    return [b"quotas:streams:" + place.key for place in places]
