#!/bin/bash
# start.sh ROLE LAYER PEER: becomes one of our proxies, as bench.py asks for it (see isthmus.json).
# `mesh.py up` copies it beside the configurations that it wrote.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case $3 in
  *:15443) case=gateway ;;
  *) case=direct ;;
esac
# The gateway dials the pod: it only runs where there are two clusters.
[ "$1" = G ] && case=gateway
export RUST_LOG=${RUST_LOG:-warn}
exec "$here/bin/isthmus-proxy" --config "$here/$2/$case-$1.json"
