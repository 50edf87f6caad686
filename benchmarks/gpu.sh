#!/usr/bin/env bash
# On a machine with a CUDA GPU: builds for it, tests, measures, and writes JSON.
#
#   benchmarks/gpu.sh [--out FOLDER] [PART ...]    default: all but the last two, benchmarks/results
#
# Parts, in this order, each ended when its time is up:
#
#   build       for this device alone                                      at most  90 s
#   tests       tests/gpu                                                           100 s
#   sanitizer   compute-sanitizer's memcheck over every kernel                       60 s
#   forward     BERT-base in float32 and bfloat16, with and without statistics       60 s
#   moments     benchmarks, the case that `correlate` has first                     120 s
#   layer_norm  benchmarks                                                           90 s
#   racecheck   compute-sanitizer's racecheck and synccheck                         100 s
#   rank_histogram                                                                   60 s
#
# The first three, which say whether the kernels are right, take less than four and a half minutes,
# the default less than nine, all less than twelve. A part can be run alone once `build` was.
#
# Needs nvcc, cmake and a Python with a CUDA build of torch, NumPy and pybind11, for `forward`
# transformers too; no network. PYTHON names another Python than python3. Fails when a part does; the
# parts after it run all the same, but for the build.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
results=benchmarks/results
if [ "${1:-}" = --out ]; then
  results=$2
  shift 2
fi
known=(build tests sanitizer forward moments layer_norm racecheck rank_histogram)
parts=("${@:-${known[@]::6}}")
build=build/gpu
mkdir -p "$results" "$build"
export PYTHONPATH=$PWD/python${PYTHONPATH:+:$PYTHONPATH}
command -v nvcc > /dev/null || PATH=$PATH:/usr/local/cuda/bin

for part in "${parts[@]}"; do
  [[ " ${known[*]} " == *" $part "* ]] || { echo "no part $part; there are: ${known[*]}"; exit 2; }
done

build() {
  command -v nvcc > /dev/null || { echo "nvcc is missing: install the CUDA toolkit or put it on PATH"; return 1; }
  $python -c 'import torch; assert torch.cuda.is_available(), "torch finds no CUDA device"' || return 1
  # "90-real" of compute capability (9, 0): a fifth of the time of all architectures.
  local architecture generator=() module
  architecture=$($python -c 'import torch; print("%d%d-real" % torch.cuda.get_device_capability())')
  command -v ninja > /dev/null && generator=(-G Ninja)
  cmake -S . -B "$build" "${generator[@]}" -DOUTDIM_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architecture" \
    -DPython_EXECUTABLE="$($python -c 'import sys; print(sys.executable)')" \
    -Dpybind11_DIR="$($python -m pybind11 --cmakedir)" > "$build/configure.log" || { cat "$build/configure.log"; return 1; }
  timeout 90 cmake --build "$build" --parallel "$(nproc)" > "$build/build.log" || { tail -50 "$build/build.log"; return 1; }
  module=$(ls "$build"/_core*.so)
  cp "$module" "python/outdim/.$(basename "$module")"
  mv "python/outdim/.$(basename "$module")" "python/outdim/$(basename "$module")"
  $python -c 'import json; from outdim import _core; print(json.dumps(_core.cuda_info()))'
}

tests() {
  if $python -c 'import hypothesis, pytest, threadpoolctl, transformers' 2> /dev/null; then
    local workers=()
    $python -c 'import xdist' 2> /dev/null && workers=(-n 6)
    # Warnings of another torch than the pinned one are no failures here.
    timeout 100 $python -m pytest tests/gpu "${workers[@]}" -m "gpu and not slow" -q --maxfail=5 -W default -p no:cacheprovider
  else
    echo "pytest or what tests import is missing: the checks of tests/gpu without them"
    timeout 100 $python tests/gpu/sanitized.py
  fi
}

# Every tensor its own allocation, so that a step outside of it is seen.
sanitize() {
  local tool
  tool=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  [ -x "$tool" ] || { echo "compute-sanitizer is missing"; return 1; }
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "$2" "$tool" --tool "$1" --error-exitcode 9 \
    --kernel-name kns=outdim "$python" tests/gpu/sanitized.py | tail -30
}
sanitizer() { sanitize memcheck 60; }
racecheck() { sanitize racecheck 50 && sanitize synccheck 50; }

measure() { timeout "$2" $python "benchmarks/bench_$1.py" --device cuda --json "$results/cuda_$1.json"; }
forward() {
  $python -c 'import transformers' || { echo "transformers is missing: the other parts need it not"; return 1; }
  measure forward 60
}
moments() { measure moments 120; }
layer_norm() { measure layer_norm 90; }
rank_histogram() { measure rank_histogram 60; }

failed=0
for part in "${parts[@]}"; do
  echo "== $part"
  SECONDS=0
  "$part" || { echo "$part failed"; failed=1; [ "$part" = build ] && exit 1; }
  echo "$part: $SECONDS s"
done
exit $failed
