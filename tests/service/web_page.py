"""Somebody's web page, on an origin of its own, the same at every path."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.service.edge_app import LOOPBACK


@asynccontextmanager
async def page_server() -> AsyncIterator[int]:
    """Run it until the block ends; gives its port."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>a page</title>", content_type="text/html")

    application = web.Application()
    application.router.add_get("/{anything:.*}", page)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, LOOPBACK, 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
