#!/usr/bin/env bash
# Builds llama.cpp's llama-bench from the source package of llama-cpp-python, with clang (gcc 12 miscompiles its AMX path).
#
# Needs python3 with pip, cmake, ninja, clang 16 or newer and libomp. Prints the path of llama-bench.
#
#   bench/peers/llama-cpp.sh [FOLDER]        (default: target/peers)
set -euo pipefail
version=0.3.36
out=$(realpath -m "${1:-$(dirname "$0")/../../target/peers}")
bin=$out/build/bin/llama-bench
if [ ! -x "$bin" ]; then
  clang=$(command -v clang || compgen -c clang- | grep -E '^clang-[0-9]+$' | sort -t- -k2 -rn | head -1)
  mkdir -p "$out"
  {
    python3 -m pip download --no-deps --no-binary :all: --no-build-isolation -d "$out" "llama-cpp-python==$version" ||
      python3 -m pip download --no-deps --no-binary :all: -d "$out" "llama-cpp-python==$version"
    tar -C "$out" -xf "$out"/llama_cpp_python-"$version".tar.gz
    cmake -S "$out/llama_cpp_python-$version/vendor/llama.cpp" -B "$out/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DCMAKE_C_COMPILER="$clang" -DCMAKE_CXX_COMPILER="${clang/clang/clang++}" -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
      -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
    cmake --build "$out/build" --target llama-bench
  } >&2
fi
echo "$bin"
