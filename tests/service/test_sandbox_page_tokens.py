"""Page tokens of lists of files are not passed on unless they may be ours."""

import grpc
import grpc.aio
import pytest

from services.sandbox.core.pages import to_token
from tests.service.sandbox_app import built_root
from tests.service.sandbox_sessions import ready


async def test_one_that_no_name_could_have_made_costs_the_session_nothing() -> None:
    async with ready(built_root()) as (_, client):
        session_id = await client.session()
        await client.run(session_id, "x = 42")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.ask("ListFiles", session_id=session_id, page_token=to_token("\x01" * 1536))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await client.ask("ListFiles", session_id=session_id, page_token=to_token("\x01" * 255))
        assert (await client.run(session_id, "print(x)")).stdout == "42\n"
