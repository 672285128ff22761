"""gRPC-Web as it is on the wire: frames of a flag, a length and bytes, over plain HTTP/1.1."""

import base64
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from services.common.grpc.errors import DETAILS_KEY

PROTO = "application/grpc-web+proto"
TRAILERS = 0x80


def frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


@dataclass(slots=True)
class WebCall:
    """A call whose frames are read as they come."""

    answer: aiohttp.ClientResponse

    async def next(self) -> tuple[int, bytes]:
        """The next frame's flag and bytes."""
        flag, length = struct.unpack(">BI", await self.answer.content.readexactly(5))
        return flag, await self.answer.content.readexactly(length)

    async def messages(self) -> AsyncIterator[bytes]:
        while True:
            flag, content = await self.next()
            if flag & TRAILERS:
                return
            yield content

    async def trailers(self) -> dict[str, str]:
        """What the last frame says, after skipping those before; or the headers, if there is no frame."""
        if "grpc-status" in self.answer.headers:
            return {key.lower(): value for key, value in self.answer.headers.items()}
        while True:
            flag, content = await self.next()
            if flag & TRAILERS:
                lines = content.decode().strip().split("\r\n")
                return {key: value for key, _, value in (line.partition(":") for line in lines)}


@asynccontextmanager
async def call(
    http: aiohttp.ClientSession, url: str, message: bytes = b"", headers: Mapping[str, str] | None = None
) -> AsyncIterator[WebCall]:
    sent = {"content-type": PROTO, "x-grpc-web": "1", **(headers or {})}
    async with http.post(url, data=frame(message), headers=sent) as answer:
        yield WebCall(answer)


def reason(trailers: Mapping[str, str]) -> str:
    """The reason in `grpc-status-details-bin`."""
    encoded = trailers[DETAILS_KEY]
    status = Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    found = ErrorInfo()
    assert any(detail.Unpack(found) for detail in status.details)
    named: str = found.reason
    return named
