"""Both REST services, as the composition root adds them to a server."""

from collections.abc import Callable

import grpc.aio
from ollamesh.compat.ollama.v1.ollama_service_pb2_grpc import add_OllamaServiceServicer_to_server
from ollamesh.compat.openai.v1.openai_batch_service_pb2_grpc import add_OpenAIBatchServiceServicer_to_server
from ollamesh.compat.openai.v1.openai_service_pb2_grpc import add_OpenAIServiceServicer_to_server

from services.common.errors import MeshError
from services.common.grpc.around import Around
from services.inference.acts import Acts
from services.inference.batches.servicer import BatchDesk
from services.inference.core.bounds import Policies
from services.inference.gateway import Gateway
from services.inference.rest import ollama_errors, openai_errors
from services.inference.rest.ollama_servicer import OllamaServicer
from services.inference.rest.openai_batch_servicer import OpenAIBatchServicer
from services.inference.rest.openai_servicer import OpenAIServicer
from services.inference.rest.refusals import refusals

OLLAMA = "ollamesh.compat.ollama.v1.OllamaService"
OPENAI = "ollamesh.compat.openai.v1.OpenAIService"
OPENAI_BATCH = "ollamesh.compat.openai.v1.OpenAIBatchService"
SERVICES = (OLLAMA, OPENAI, OPENAI_BATCH)


def add_to(
    server: grpc.aio.Server, gateway: Gateway, policies: Policies, desk: BatchDesk | None, acts: Acts
) -> None:
    add_OllamaServiceServicer_to_server(OllamaServicer(gateway, policies, acts), server)
    add_OpenAIServiceServicer_to_server(OpenAIServicer(gateway, policies), server)
    add_OpenAIBatchServiceServicer_to_server(OpenAIBatchServicer(desk), server)


def refused(told: Callable[[str, MeshError], None]) -> Around:
    """Have their failures told as their vendors would, and `told`. Inside of what answers gRPC's callers."""
    dialects = {
        OLLAMA: ollama_errors.refusal,
        OPENAI: openai_errors.refusal,
        OPENAI_BATCH: openai_errors.refusal,
    }
    return refusals(dialects, told)
