"""Ollama's own words about models, and files for new ones: what the REST surface asks the library for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256

import pytest

from services.common.errors import InvalidRequest
from services.inference.adapters.ollama import Ollama, Timeouts
from services.inference.core.endpoints import parse_endpoint
from services.inference.core.ledger import InstanceView, Ledger
from services.inference.downloads import Done, Told, Watch
from services.inference.errors import InstanceFailed, ModelNotFound, NoInstance
from services.inference.fleet import Fleet
from services.inference.library import Library
from services.inference.ports import Fault, Trouble
from tests.fakes.fake_ollama import CHAT_MODEL, FakeOllama
from tests.service.inference_app import WITHIN_S, until
from tests.service.inference_backend import Backend

CHAT = CHAT_MODEL.name
DATA = b"weights" * 100_000
DIGEST = f"sha256:{sha256(DATA).hexdigest()}"
TIMEOUTS = Timeouts(connect_s=5, first_token_s=20, load_s=20, stall_s=20, listing_s=20)


class NoKeeper:
    """Memory is no business of these tests."""

    def __init__(self, fleet: Fleet) -> None:
        self.doubt = fleet.doubt

    async def load(self, model: str, instance: str, *, pin: bool) -> str:
        raise NotImplementedError

    async def unload(self, model: str, instance: str, *, keep_out_s: float = 0.0) -> None:
        """There is nothing to unload."""


@asynccontextmanager
async def opened(url: str, api_key: str | None = None) -> AsyncIterator[Ollama]:
    endpoint = parse_endpoint(url)
    assert endpoint is not None
    async with Ollama.opened(endpoint, timeouts=TIMEOUTS, connections_max=4, api_key=api_key) as made:
        yield made


@asynccontextmanager
async def library(*fakes: FakeOllama) -> AsyncIterator[Library]:
    """The library over instances that are looked at."""
    ledger = Ledger()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        instances = {fake.url: await stack.enter_async_context(opened(fake.url)) for fake in fakes}
        fleet = Fleet(instances, slots=1, every_s=60)
        made = Library(
            ledger=ledger,
            shelves={name: each.shelf for name, each in instances.items()},
            keeper=NoKeeper(fleet),
        )
        running = [tasks.create_task(fleet.watch(name, ledger.observe)) for name in instances]
        running.append(tasks.create_task(made.run()))
        await until(lambda: len(ledger.views()) == len(fakes) and all(view.ready for view in ledger.views()))
        yield made
        for task in running:
            task.cancel()


async def rest(watch: Watch) -> list[Told | Done]:
    found = []
    async with asyncio.timeout(WITHIN_S):
        while (told := await watch.read()) is not None:
            found.append(told)
    watch.close()
    return found


async def data() -> AsyncIterator[bytes]:
    for start in range(0, len(DATA), 65_536):
        yield DATA[start : start + 65_536]


async def test_all_that_ollama_shows_of_a_model_is_handed_on() -> None:
    async with FakeOllama() as fake, library(fake) as made:
        shown = await made.show(CHAT.upper())
        assert {"modelfile", "parameters", "details", "model_info", "capabilities"} <= shown.keys()
        await made.show(CHAT, verbose=True)
        first, second = (request.body for request in fake.asked("/api/show"))
        assert (first, second) == ({"model": CHAT}, {"model": CHAT, "verbose": True})
        with pytest.raises(ModelNotFound):
            await made.show("nope")


async def test_a_model_is_made_of_files_that_every_instance_got() -> None:
    async with FakeOllama() as one, FakeOllama() as two, library(one, two) as made:
        assert not await made.has_blob(DIGEST)
        await made.put_blob(DIGEST, data())
        assert await made.has_blob(DIGEST)
        assert one.blobs == two.blobs == {DIGEST: DATA}
        await made.put_blob(DIGEST, data())  # Again: they do not take it, and that is fine.
        body = {"model": "mine", "files": {"a.gguf": DIGEST}, "stream": False}
        told = await rest(made.create("mine", body))
        assert isinstance(told[-1], Done)
        assert told[-1].model.card.name == "mine:latest"
        assert len(told[-1].model.instances) == 2
        statuses = [each.progress.status for each in told if isinstance(each, Told)]
        assert statuses.count("success") == 2


async def test_a_file_that_is_not_what_its_digest_says_is_refused() -> None:
    wrong = f"sha256:{'0' * 64}"
    async with FakeOllama() as fake, library(fake) as made:
        with pytest.raises(InvalidRequest):
            await made.put_blob(wrong, data())
        for digest in ("sha256:0", "../../etc", f"{DIGEST}/x", f"{DIGEST}\r\nHost: evil"):
            with pytest.raises(InvalidRequest) as refused:
                await made.has_blob(digest)
            assert refused.value.violations[0].field == "digest"
        assert not fake.blobs


async def test_one_instance_that_fails_holds_up_no_other() -> None:
    async with FakeOllama() as one, FakeOllama() as two, library(one, two) as made:
        await two.refuse()
        with pytest.raises(InstanceFailed) as failed:
            await made.put_blob(DIGEST, data())
        assert failed.value.facts == {"instance": two.url}
        assert one.blobs == {DIGEST: DATA}


async def test_a_caller_that_stops_sending_stops_the_upload() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("the caller left")

    async with FakeOllama() as fake, library(fake) as made:
        with pytest.raises(ValueError, match="left"):
            await made.put_blob(DIGEST, broken())
        assert not fake.blobs


async def test_what_ollama_would_not_make_is_said_so() -> None:
    async with FakeOllama() as fake, library(fake) as made:
        with pytest.raises(InstanceFailed):
            await rest(made.create("mine", {"model": "mine"}))
        with pytest.raises(InvalidRequest):
            made.create("a b", {})
        with pytest.raises(InvalidRequest):
            made.pull("../x")
        with pytest.raises(InvalidRequest):
            await made.copy(CHAT, "a b")


async def test_without_a_ready_instance_nothing_is_tried() -> None:
    ledger = Ledger()
    fleet = Fleet({}, slots=1, every_s=60)
    made = Library(ledger=ledger, shelves={}, keeper=NoKeeper(fleet))
    with pytest.raises(NoInstance):
        made.pull("new")
    with pytest.raises(NoInstance):
        await made.has_blob(DIGEST)
    ledger.observe(InstanceView(name="one", unready_reason="down"))
    with pytest.raises(NoInstance):
        await made.delete("tiny")


# The adapter's own


async def test_an_upload_carries_the_key_and_its_whole_body() -> None:
    async with FakeOllama() as fake, opened(fake.url, "secret-key") as instance:
        await instance.shelf.put_blob(DIGEST, data())
        (recorded,) = fake.asked(f"/api/blobs/{DIGEST}")
        assert recorded.authorization == "Bearer secret-key"


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"nonsense\r\n\r\n", Fault.BROKEN),
        (b"", Fault.UNREACHABLE),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Fault.BROKEN),
    ],
)
async def test_an_upload_that_goes_wrong_is_the_instances_trouble(answer: bytes, fault: Fault) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, opened(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as instance:
        with pytest.raises(Trouble) as failed:
            await instance.shelf.has_blob(DIGEST)
    assert failed.value.fault is fault


@pytest.mark.parametrize(
    ("lines", "raised"),
    [
        ([{"status": "pulling manifest"}], Trouble),
        ([{"status": 1}], Trouble),
        ([{"status": "x" * 100_000}], Trouble),
        ([{"status": "pulling", "total": -1}], Trouble),
        (
            [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}],
            ModelNotFound,
        ),
        ([{"error": "max retries exceeded"}], Trouble),
    ],
)
async def test_only_success_is_success(lines: list[dict[str, object]], raised: type[Exception]) -> None:
    async with Backend("tiny").serving() as backend, opened(backend.url) as instance:
        pulling = asyncio.create_task(instance.shelf.pull("new", insecure=True, tell=lambda _: None))
        exchange = await backend.asked()
        assert exchange.body == {"model": "new", "stream": True, "insecure": True}
        for line in lines:
            exchange.line(**line)
        exchange.end()
        with pytest.raises(raised):
            await pulling
