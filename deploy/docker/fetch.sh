#!/bin/sh
# Runs a command that fetches packages. Where packages come from another index than usual, or through a proxy with an
# authority of its own, the build is given secrets, so that no layer has them: `ca` (PEM) and `uv` (a uv.toml).
set -eu
if [ -s /run/secrets/ca ]; then
  export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca
fi
if [ -s /run/secrets/uv ]; then
  export UV_CONFIG_FILE=/run/secrets/uv
fi
exec "$@"
