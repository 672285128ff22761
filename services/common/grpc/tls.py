"""TLS inside: credentials for a server and for channels, made of material that changes while we run.

A server asks for the newest material at each handshake. A channel cannot change its credentials: following.py opens
another. Both sides must have a certificate of an authority that the other trusts. What gRPC offers is TLS 1.2 and 1.3
only, with forward secrecy.
"""

from collections.abc import Callable
from typing import Any

import grpc

from services.common.certificates import Followed, Material


def server_credentials(followed: Followed) -> grpc.ServerCredentials:
    given = followed.latest

    def fetch() -> Any:  # None for no change, which the types do not know.
        nonlocal given
        if (latest := followed.latest) is given:
            return None
        given = latest
        return _configuration(latest)

    change: Callable[[], grpc.ServerCertificateConfiguration] = fetch
    return grpc.dynamic_ssl_server_credentials(
        _configuration(given), change, require_client_authentication=True
    )


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=material.authorities,
        private_key=material.key,
        certificate_chain=material.certificate,
    )


def must_be(dns_name: str) -> tuple[str, str]:
    """The option of a channel that refuses a server with another name than this one.

    gRPC compares DNS names and no URIs, so each certificate holds its SPIFFE ID in both forms (Inside.dns_name).
    """
    return ("grpc.ssl_target_name_override", dns_name)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.authorities
    )
