#!/bin/sh
# Starts the edge: renders Envoy's configuration from the environment, then runs Envoy under its keeper, which renders it
# anew on SIGHUP. Arguments are Envoy's, such as --concurrency.
set -eu
folder=${OLLAMESH_EDGE_FOLDER:?}
mkdir -p "$folder"
python -m deploy.envoy --write > "$folder/envoy.json"
envoy=$(python -c 'from importlib.util import find_spec; from pathlib import Path; print(Path(find_spec("envoy").origin).parent / "_bin" / "envoy")')
exec python -m deploy.envoy.serve "$envoy" "$folder/envoy.json" "$@"
