"""TLS for everybody: which versions and suites, and where the certificates are read, again and again.

Envoy reads the certificate through files that it watches (files.py), so a new one is used for the next handshake,
and connections that exist keep what they have. A certificate and a key that do not belong together are refused, and
the old ones stay: so the two may be replaced one after the other.
"""

from pathlib import Path

from envoy_data_plane.envoy.config.core.v3 import DataSource, TransportSocket, WatchedDirectory
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    Secret,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
)
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import files, watched
from deploy.envoy.config import Tls

CERTIFICATE, CLIENT_CA = "certificate", "client_ca"
# For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
CURVES = ("X25519MLKEM768", "X25519", "P-256")


def downstream(tls: Tls, folder: Path) -> TransportSocket:
    context = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
            cipher_suites=list(SUITES),
            ecdh_curves=list(CURVES),
        ),
        alpn_protocols=["h2", "http/1.1"],
        tls_certificate_sds_secret_configs=[_watched(CERTIFICATE, folder)],
    )
    if tls.client_ca is not None:
        context.validation_context_sds_secret_config = _watched(CLIENT_CA, folder)
    downstream = DownstreamTlsContext(
        common_tls_context=context,
        require_client_certificate=tls.client_ca is not None and tls.requires_client,
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(downstream))


def write_secrets(tls: Tls, folder: Path) -> None:
    """What Envoy reads to find the certificates."""
    certificate = TlsCertificate(
        certificate_chain=_file(tls.certificate),
        private_key=_file(tls.key),
        watched_directory=WatchedDirectory(path=str(tls.certificate.parent)),
    )
    _write(folder, Secret(name=CERTIFICATE, tls_certificate=certificate))
    if tls.client_ca is not None:
        trusted = CertificateValidationContext(
            trusted_ca=_file(tls.client_ca),
            watched_directory=WatchedDirectory(path=str(tls.client_ca.parent)),
        )
        _write(folder, Secret(name=CLIENT_CA, validation_context=trusted))


def _write(folder: Path, secret: Secret) -> None:
    files.write(watched.secret_path(folder, secret.name), secret)


def _watched(name: str, folder: Path) -> SdsSecretConfig:
    return SdsSecretConfig(name=name, sds_config=files.source(watched.secret_path(folder, name)))


def _file(path: Path) -> DataSource:
    return DataSource(filename=str(path))
