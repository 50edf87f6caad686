#!/usr/bin/env bash
# Builds for the GPU of this machine, runs tests/gpu, then the GPU benchmarks, and writes JSON:
#
#   benchmarks/gpu.sh [FOLDER]        default benchmarks/results
#
# Needs nvcc, cmake and a Python with a CUDA build of torch and pybind11; no network. Ends within ten minutes.
# PYTHON names another Python than python3. Fails when the build, a test or a benchmark does.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
results=${1:-benchmarks/results}
build=build/gpu
mkdir -p "$results" "$build"
failed=0

command -v nvcc > /dev/null || PATH=$PATH:/usr/local/cuda/bin
command -v nvcc > /dev/null || { echo "nvcc is missing: install the CUDA toolkit or put it on PATH"; exit 1; }
$python -c 'import torch; assert torch.cuda.is_available(), "torch finds no CUDA device"'

echo "== build"
# For this device alone, "90-real" of compute capability (9, 0): a fifth of the time of all.
architecture=$($python -c 'import torch; print("%d%d-real" % torch.cuda.get_device_capability())')
generator=()
command -v ninja > /dev/null && generator=(-G Ninja)
cmake -S . -B "$build" "${generator[@]}" -DOUTDIM_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architecture" \
  -DPython_EXECUTABLE="$($python -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$($python -m pybind11 --cmakedir)" > "$build/configure.log" || { cat "$build/configure.log"; exit 1; }
cmake --build "$build" --parallel "$(nproc)" > "$build/build.log" || { tail -50 "$build/build.log"; exit 1; }
module=$(ls "$build"/_core*.so)
cp "$module" "python/outdim/.$(basename "$module")"
mv "python/outdim/.$(basename "$module")" "python/outdim/$(basename "$module")"
export PYTHONPATH=$PWD/python${PYTHONPATH:+:$PYTHONPATH}
$python -c 'import json; from outdim import _core; print(json.dumps(_core.cuda_info()))'

echo "== tests"
if $python -c 'import pytest' 2> /dev/null; then
  # -m gpu: the slow ones too. Warnings of another torch than the pinned one are no failures here.
  timeout 270 $python -m pytest tests/gpu -m gpu -q -W default || failed=1
else
  echo "pytest is missing: the checks of tests/gpu without it"
  timeout 120 $python tests/gpu/sanitized.py || failed=1
fi

echo "== benchmarks"
for name in layer_norm moments rank_histogram; do
  timeout 80 $python "benchmarks/bench_$name.py" --device cuda --json "$results/cuda_$name.json" || failed=1
done
exit $failed
