"""The sandbox as a user of the whole mesh meets it: by the command line and the client, through the edge."""

import asyncio
import base64
import json
import os
import re
import sys
from pathlib import Path

from ollamesh.client import Client, StaticToken, executions

from tests.fakes.command_line import in_a_process
from tests.mesh.edge import Edge

REPOSITORY = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")
WITHIN_S = 120.0
PLOT = """\
import pandas as pd
sales = pd.read_csv("sales.csv")
sales.plot(x="month", y="sold")
sales["sold"].sum()
"""


async def cli(edge: Edge, folder: Path, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    return await in_a_process(
        *arguments, edge=edge.url, token=edge.token(), folder=folder, stdin=stdin, within_s=WITHIN_S
    )


async def until_there(client: Client, profile: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while profile not in {found.name for found in (await client.sandbox.capabilities()).profiles}:
            await asyncio.sleep(0.2)


async def test_a_plot_of_a_file_is_saved(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("month,sold\n1,20\n2,22\n")
    (tmp_path / "plot.py").write_text(PLOT)
    async with Client(edge.url, StaticToken(edge.token())) as client:
        await until_there(client, "python-data")
    made = await cli(edge, tmp_path, "sandbox", "sessions", "create", "--profile", "python-data")
    session = made[1].strip()
    assert (await cli(edge, tmp_path, "sandbox", "files", "put", session, "sales.csv"))[0] == 0
    code, out, err = await cli(edge, tmp_path, "exec", "plot.py", "--session", session)
    assert (code, out) == (0, "np.int64(42)\n"), err
    assert err.startswith("saved plot-1.png\nexit code 0 · ")
    assert (tmp_path / "plot-1.png").read_bytes().startswith(b"\x89PNG")
    assert (await cli(edge, tmp_path, "sandbox", "sessions", "rm", session))[0] == 0


async def test_a_program_is_talked_to_and_its_files_are_moved(edge: Edge) -> None:
    data = os.urandom(1 << 16) * 64  # 4 MiB.
    async with Client(edge.url, StaticToken(edge.token())) as client, asyncio.timeout(WITHIN_S):
        async with client.sandbox.session() as session:
            await session.put("in", data)
            done = await session.run("open('out', 'wb').write(open('in', 'rb').read()[::-1])")
            assert done.exited.outcome == "ok"
            assert await session.get("out") == data[::-1]
        started = await client.sandbox.start("while line := input(): print(line[::-1])", stdin_open=True)
        await client.sandbox.send_input(started.execution_id, b"hello\n\n", offset=0, end=True)
        told = await executions.completed(client.sandbox.watch(started.execution_id))
        assert (told.stdout, told.exited.outcome) == (b"olleh\n", "ok")


async def test_plain_grpc_with_json_as_the_guide_has_it(edge: Edge) -> None:
    guide = (REPOSITORY / "docs/sandbox.md").read_text()
    (body,) = re.findall(r"-d '(\{.*\})' \\\n", guide)
    process = await asyncio.create_subprocess_exec(
        *(BUF, "curl", "--schema", "protos", "--protocol", "grpc", "--http2-prior-knowledge"),
        *("-H", f"authorization: Bearer {edge.token()}", "-d", body),
        f"{edge.url}/ollamesh.sandbox.v1.SandboxService/Execute",
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(process.communicate(), WITHIN_S)
    events, text = [], out.decode()
    while text := text.strip():
        document, end = json.JSONDecoder().raw_decode(text)
        events.append(document["event"])
        text = text[end:]
    kinds = [next(kind for kind in event if kind != "sequence") for event in events]
    assert kinds == ["started", "stdout", "result", "exited"]
    assert base64.b64decode(events[1]["stdout"]["data"]) == b"42\n"
    assert base64.b64decode(events[2]["result"]["data"]["text/plain"]) == b"1024"
