"""The routes, and what is true of all of them: error bodies, allowed hosts, cancelled handlers."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from deploy.local.runtime.api.completions import Completions
from deploy.local.runtime.api.embeddings import Embeddings
from deploy.local.runtime.api.http import json_reply
from deploy.local.runtime.api.library import Library
from deploy.local.runtime.api.shelf import FixedShelf
from deploy.local.runtime.errors import WireError
from deploy.local.runtime.ports import Backend, Shelf
from deploy.local.runtime.wire.hosts import allowed_host
from deploy.local.runtime.wire.replies import ErrorReply

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

VERSION = "0.33.0"  # Of Ollama, whose behaviour this is.
# Generous to long documents; anything larger is a mistake or an attack.
BODY_BYTES_MAX = 32 * 2**20

log = logging.getLogger(__name__)


def application(backend: Backend, shelf: Shelf | None = None) -> web.Application:
    """Serve a backend; without a `shelf` of its own, its models are those that are installed."""
    library = Library(backend, shelf or FixedShelf(backend), VERSION)
    completions, embeddings = Completions(backend), Embeddings(backend)
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_errors, _hosts])
    app.add_routes(
        [
            web.get("/", _running),
            web.get("/api/version", library.version),
            web.get("/api/tags", library.tags),
            web.get("/api/ps", library.ps),
            web.post("/api/show", library.show),
            web.post("/api/pull", library.pull),
            web.post("/api/copy", library.copy),
            web.post("/api/create", library.create),
            web.delete("/api/delete", library.delete),
            web.head("/api/blobs/{digest}", library.has_blob),
            web.post("/api/blobs/{digest}", library.put_blob),
            web.post("/api/chat", completions.chat),
            web.post("/api/generate", completions.generate),
            web.post("/api/embed", embeddings.embed),
            web.post("/api/embeddings", embeddings.embeddings),
        ]
    )
    return app


@asynccontextmanager
async def serving(app: web.Application, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve until left; yields the port. A handler is cancelled when its caller hangs up, streamed or not."""
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _running(_: web.Request) -> web.Response:
    return web.Response(text="Ollama is running")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except WireError as error:
        return json_reply(ErrorReply(str(error)), status=error.status)
    except web.HTTPNotFound:
        return web.Response(status=404, text="404 page not found")
    except web.HTTPMethodNotAllowed:
        return web.Response(status=405, text="405 method not allowed")
    except web.HTTPRequestEntityTooLarge:
        return json_reply(ErrorReply("http: request body too large"), status=413)


@web.middleware
async def _hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not allowed_host(request.host):
        raise web.HTTPForbidden
    return await handler(request)
