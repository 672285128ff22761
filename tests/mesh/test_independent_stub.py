"""Somebody with nothing but protos/ and protoc makes stubs of their own and is served."""

import os
import subprocess
import sys
from pathlib import Path

from tests.mesh.edge import MODEL, Edge

PROTOS = Path(__file__).parents[2] / "protos"
CALLER = """
import sys
import grpc
from ollamesh.inference.v1 import completion_pb2 as pb, inference_service_pb2_grpc as rpc
target, model, token = sys.argv[1:]
request = pb.ChatRequest(model=model, messages=[pb.Message(role=pb.ROLE_USER, content="Say hello.")])
request.options.output_token_count_max = 8
with grpc.insecure_channel(target) as channel:
    stream = rpc.InferenceServiceStub(channel).Chat(request, metadata=[("authorization", f"Bearer {token}")])
    print(*[response.event.WhichOneof("event") for response in stream])
"""


def test_protoc_is_enough(edge: Edge, tmp_path: Path) -> None:
    sources = [path for path in PROTOS.rglob("*.proto") if "google" not in path.parts]
    generate = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--python_out={tmp_path}"]
    subprocess.run([*generate, f"--grpc_python_out={tmp_path}", *map(str, sources)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", CALLER, edge.target, MODEL, edge.token()],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = done.stdout.split()
    assert (events[0], events[-1]) == ("opened", "finished")
    assert "delta" in events
