"""Everywhere that something comes out of a stack, or is left behind where others may read it, as text."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import asyncpg
import psutil
import redis.asyncio as redis_client

from deploy.local import stack
from deploy.local.secret_files import SecretFiles
from deploy.local.settings import Settings, port_variable
from deploy.local.traces.reading import reading
from tests.mesh.scraping import text_of
from tools.metrics_catalogue import SERVICES

TRACES_MAX = 1000
# Those that only their owner can read and that hold nothing else: the secrets themselves, and the stores' own files,
# into which is looked by asking the stores.
OWN = ("secrets", "tls", "data")


async def sinks(settings: Settings) -> dict[str, str]:
    """By name."""
    found = await asyncio.to_thread(_at_hand, settings)
    return {**found, "Redis": await _redis(settings), "audit log": await _audit(settings)}


def _at_hand(settings: Settings) -> dict[str, str]:
    return {
        **dict(_files(settings.home)),
        **{f"metrics of {service}": text_of(settings, service) for service in SERVICES},
        "metrics of the edge": _edge_metrics(settings),
        "traces": _traces(settings),
        **dict(_processes(settings.home)),
    }


def _files(home: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home)
        if path.is_file() and name.parts[0] not in OWN:
            yield str(name), path.read_bytes().decode(errors="replace")


def _edge_metrics(settings: Settings) -> str:
    (pid,) = (part.pid for part in stack.status(settings).parts if part.name == "edge")
    port = psutil.Process(pid).environ()[port_variable("admin")]
    with urlopen(f"http://127.0.0.1:{port}/stats/prometheus", timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def _traces(settings: Settings) -> str:
    with reading(settings.home) as traces:
        return "\n".join(
            str(span) for trace in traces.latest(TRACES_MAX) for span in traces.spans(trace.trace_id)
        )


def _processes(home: Path) -> Iterator[tuple[str, str]]:
    """What everybody on the machine can see of each process, and its environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line, environment = process.cmdline(), process.environ()
            if any(str(home) in text for text in (*line, *environment.values())):
                yield f"arguments of {process.pid} {process.name()}", "\n".join(line)
                yield f"environment of {process.pid} {process.name()}", json.dumps(environment)


async def _redis(settings: Settings) -> str:
    client: Any = redis_client.Redis.from_url(SecretFiles(settings.home).read("redis_url"))
    async with client:
        told = []
        async for key in client.scan_iter(count=500):
            kind = (await client.type(key)).decode()
            told.append(repr((key, kind, await _value(client, key, kind))))
    assert told, "there is something in it"
    return "\n".join(told)


async def _value(client: Any, key: bytes, kind: str) -> object:
    match kind:
        case "string":
            return await client.get(key)
        case "hash":
            return await client.hgetall(key)
        case "list":
            return await client.lrange(key, 0, -1)
        case "set":
            return await client.smembers(key)
        case "zset":
            return await client.zrange(key, 0, -1, withscores=True)
        case "stream":
            return await client.xrange(key)
        case _:
            raise AssertionError(kind)


async def _audit(settings: Settings) -> str:
    connection = await asyncpg.connect(SecretFiles(settings.home).read("auth_database_url"))
    try:
        rows = await connection.fetch("SELECT audit_events::text AS line FROM audit_events")
    finally:
        await connection.close()
    assert rows
    return "\n".join(row["line"] for row in rows)
