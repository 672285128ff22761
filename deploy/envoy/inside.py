"""TLS between the edge and the services: who Envoy is to them, and that nobody else answers in their name.

The files change while Envoy runs. It is told where they lie by secrets that it reads from files of their own (files.py),
since only of such secrets it watches the folder; a new certificate is used for the next connection.
"""

from pathlib import Path

from envoy_data_plane.envoy.config.core.v3 import DataSource, TransportSocket, WatchedDirectory
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    SdsSecretConfig,
    Secret,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import files, watched
from deploy.envoy.config import Edge
from services.common.certificates import Files

IDENTITY, AUTHORITIES = "inside_identity", "inside_authorities"


def upstream_tls(edge: Edge, service: str) -> TransportSocket | None:
    """How Envoy connects to a service, health checks included. None for plain text."""
    if edge.inside.files is None or edge.folder is None:
        return None
    is_it = SubjectAltNameMatcher(
        san_type=SubjectAltNameMatcherSanType.URI,
        matcher=StringMatcher(exact=edge.inside.spiffe_id(service)),
    )
    context = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
        ),
        alpn_protocols=["h2"],
        tls_certificate_sds_secret_configs=[_watched(IDENTITY, edge.folder)],
        combined_validation_context=CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(match_typed_subject_alt_names=[is_it]),
            validation_context_sds_secret_config=_watched(AUTHORITIES, edge.folder),
        ),
    )
    upstream = UpstreamTlsContext(common_tls_context=context, sni=edge.inside.dns_name(service))
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(upstream))


def write_secrets(found: Files, folder: Path) -> None:
    """What Envoy reads to find its certificate and the authorities."""
    identity = TlsCertificate(
        certificate_chain=_file(found.certificate),
        private_key=_file(found.key),
        watched_directory=_folder(found.certificate),
    )
    trusted = CertificateValidationContext(
        trusted_ca=_file(found.authorities), watched_directory=_folder(found.authorities)
    )
    _write(folder, Secret(name=IDENTITY, tls_certificate=identity))
    _write(folder, Secret(name=AUTHORITIES, validation_context=trusted))


def _write(folder: Path, secret: Secret) -> None:
    files.write(watched.secret_path(folder, secret.name), secret)


def _watched(name: str, folder: Path) -> SdsSecretConfig:
    return SdsSecretConfig(name=name, sds_config=files.source(watched.secret_path(folder, name)))


def _file(path: Path) -> DataSource:
    return DataSource(filename=str(path))


def _folder(path: Path) -> WatchedDirectory:
    return WatchedDirectory(path=str(path.parent))
