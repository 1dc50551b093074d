#!/usr/bin/env bash
# Serves a tiny student through vLLM on this machine's CPUs and checks its endpoint: run.sh DIR [OPTIONS OF check_endpoint.py]
#
# DIR is the environment; it is made when it is not there. Needs about 4 GB of memory and, once the environment is there, two minutes.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: $0 DIR [--keep DIR] [--faults]" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
env=$1
shift
"$here/environment.sh" "$env"
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0
exec "$env/bin/python" "$here/check_endpoint.py" "$@"
