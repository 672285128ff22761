"""A channel that follows its certificate: when the files change, new calls go over a new channel.

gRPC for Python has no credentials that change. So this is a channel of channels. The next one is opened when a call
notices new files, and takes over when it is connected, or when the one in use is not: a certificate that does not work is
no reason to give up one that does. The one that is left is closed when its last call has ended, however long that takes.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import grpc
import grpc.aio

from services.common.certificates import Followed, Material

Open = Callable[[Material], grpc.aio.Channel]
READY = grpc.ChannelConnectivity.READY


class _Line:
    """One channel, and how many calls are under way on it."""

    def __init__(self, channel: grpc.aio.Channel, material: Material) -> None:
        self.channel, self.material = channel, material
        self.calls_count = 0
        self.methods: dict[tuple[str, str], Any] = {}  # Bounded by the methods that are called.

    @property
    def is_ready(self) -> bool:
        return self.channel.get_state(True) is READY  # noqa: FBT003 - gRPC's own; it also begins to connect.


class FollowingChannel(grpc.aio.Channel):
    """`open_channel` makes a channel of material. Only for the event loop's own thread."""

    def __init__(self, followed: Followed, open_channel: Open) -> None:
        self._followed, self._open = followed, open_channel
        self._line = self._opened()
        self._next: _Line | None = None
        self._left: set[_Line] = set()  # With calls under way.
        self._closing: set[asyncio.Task[None]] = set()

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return self._method("unary_unary", method, *args, **options)

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return self._method("unary_stream", method, *args, **options)

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return self._method("stream_unary", method, *args, **options)

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return self._method("stream_stream", method, *args, **options)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's.
        return self._line.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._line.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._line.channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        lines = [self._line, *([self._next] if self._next else []), *self._left]
        self._left.clear()
        await asyncio.gather(*(line.channel.close(grace) for line in lines), *self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _method(self, arity: str, method: str, *args: Any, **options: Any) -> Any:
        make = partial(self._made, (arity, method), args, options)

        def call(*request: Any, **how: Any) -> Any:
            line = self._current()
            made = make(line)(*request, **how)
            line.calls_count += 1
            made.add_done_callback(partial(self._ended, line))
            return made

        return call

    def _made(self, key: tuple[str, str], args: Any, options: Any, line: _Line) -> Any:
        if (made := line.methods.get(key)) is None:
            arity, method = key
            made = line.methods[key] = getattr(line.channel, arity)(method, *args, **options)
        return made

    def _current(self) -> _Line:
        latest = self._followed.latest
        if latest is not self._line.material:
            self._follow(latest)
        return self._line

    def _follow(self, latest: Material) -> None:
        if self._next is None or self._next.material is not latest:
            if self._next is not None:
                self._close(self._next)
            self._next = self._opened()
        if self._next.is_ready or not self._line.is_ready:
            left, self._line, self._next = self._line, self._next, None
            self._left.add(left)
            self._close_if_left(left)

    def _opened(self) -> _Line:
        material = self._followed.latest
        return _Line(self._open(material), material)

    def _ended(self, line: _Line, _call: object) -> None:
        line.calls_count -= 1
        self._close_if_left(line)

    def _close_if_left(self, line: _Line) -> None:
        if line in self._left and line.calls_count == 0:
            self._left.discard(line)
            self._close(line)

    def _close(self, line: _Line) -> None:
        task = asyncio.get_running_loop().create_task(line.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
