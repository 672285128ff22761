"""REST as another spelling of gRPC methods: Envoy reads the mapping from the protos' own descriptors.

The descriptors are those of the generated modules, so nothing runs protoc, and they cannot differ from
what the services were built with. `error_details` must be among them: a failure whose details Envoy cannot
read would have an empty body.
"""

from envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder.v3 import (
    GrpcJsonTranscoder,
    GrpcJsonTranscoderPrintOptions,
    GrpcJsonTranscoderUrlUnescapeSpec,
)
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2
from ollamesh.auth.v1 import oauth_service_pb2
from ollamesh.compat.ollama.v1 import ollama_service_pb2
from ollamesh.compat.openai.v1 import openai_batch_service_pb2, openai_service_pb2
from ollamesh.inference.v1 import health_service_pb2

from services.common.grpc.client import MESSAGE_BYTES_MAX

FORM_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 1024 * 1024
# Of a message that a service accepts, less than what gRPC adds to a body.
REST_BYTES_MAX = MESSAGE_BYTES_MAX - 1024


def oauth() -> GrpcJsonTranscoder:
    """OAuth's endpoints, and what monitoring asks: HttpBody both ways, so bodies pass verbatim."""
    return _transcoder(
        oauth_service_pb2.DESCRIPTOR,
        health_service_pb2.DESCRIPTOR,
        request_bytes_max=FORM_BYTES_MAX,
        answer_bytes_max=ANSWER_BYTES_MAX,
    )


def models() -> GrpcJsonTranscoder:
    """Ollama's and OpenAI's endpoints, the same way. What is asked may hold images."""
    return _transcoder(
        ollama_service_pb2.DESCRIPTOR,
        openai_service_pb2.DESCRIPTOR,
        openai_batch_service_pb2.DESCRIPTOR,
        request_bytes_max=REST_BYTES_MAX,
        answer_bytes_max=REST_BYTES_MAX,
    )


def _transcoder(*files: FileDescriptor, request_bytes_max: int, answer_bytes_max: int) -> GrpcJsonTranscoder:
    """For all services of `files`."""
    return GrpcJsonTranscoder(
        proto_descriptor_bin=_descriptors(*files, error_details_pb2.DESCRIPTOR),
        services=[service.full_name for file in files for service in file.services_by_name.values()],
        convert_grpc_status=True,
        ignore_unknown_query_parameters=True,
        url_unescape_spec=GrpcJsonTranscoderUrlUnescapeSpec.ALL_CHARACTERS,
        query_param_unescape_plus=True,  # Browsers and OAuth clients write a space so.
        print_options=GrpcJsonTranscoderPrintOptions(preserve_proto_field_names=True),
        max_request_body_size=request_bytes_max,
        max_response_body_size=answer_bytes_max,
    )


def _descriptors(*roots: FileDescriptor) -> bytes:
    """The files and all they import, each after its imports."""
    found = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(found.file.add())

    for root in roots:
        add(root)
    return found.SerializeToString(deterministic=True)
