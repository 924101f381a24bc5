#!/usr/bin/env bash
# Builds llama.cpp's programs from the source package of llama-cpp-python, with clang (gcc 12 miscompiles its AMX path), for
# all that this machine has or for one instruction set.
#
# With LLAMA_SERVER=1 its server too. Needs python3 with pip, cmake, ninja, clang 16 or newer and libomp. Prints the path of llama-bench.
#
#   bench/peers/llama-cpp.sh [native|avx2|avx512vnni] [FOLDER]        (default: native, target/peers)
set -euo pipefail
version=0.3.36
set=${1:-native}
out=$(realpath -m "${2:-$(dirname "$0")/../../target/peers}")
small=(-DGGML_NATIVE=OFF -DGGML_{SSE42,AVX,AVX2,BMI2,FMA,F16C}=ON)
case $set in
native) build=$out/build flags=(-DGGML_NATIVE=ON) ;;
avx2) build=$out/build-avx2 flags=("${small[@]}") ;;
avx512vnni) build=$out/build-avx512vnni flags=("${small[@]}" -DGGML_{AVX512,AVX512_VNNI}=ON) ;;
*) echo "$0: $set is none of native, avx2, avx512vnni" >&2 && exit 2 ;;
esac
programs=(llama-bench llama-batched-bench llama-completion llama-tokenize)
server=OFF
[ -z "${LLAMA_SERVER:-}" ] || { server=ON; programs+=(llama-server); }
built() { for p in "${programs[@]}"; do [ -x "$build/bin/$p" ] || return 1; done; }
if ! built; then
  clang=$(command -v clang || compgen -c clang- | grep -E '^clang-[0-9]+$' | sort -t- -k2 -rn | head -1)
  mkdir -p "$out"
  {
    if [ ! -d "$out/llama_cpp_python-$version" ]; then
      python3 -m pip download --no-deps --no-binary :all: --no-build-isolation -d "$out" "llama-cpp-python==$version" ||
        python3 -m pip download --no-deps --no-binary :all: -d "$out" "llama-cpp-python==$version"
      tar -C "$out" -xf "$out"/llama_cpp_python-"$version".tar.gz
    fi
    cmake -S "$out/llama_cpp_python-$version/vendor/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
      -DCMAKE_C_COMPILER="$clang" -DCMAKE_CXX_COMPILER="${clang/clang/clang++}" "${flags[@]}" -DLLAMA_CURL=OFF \
      -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=$server -DLLAMA_BUILD_UI=OFF
    cmake --build "$build" --target "${programs[@]}"
  } >&2
fi
echo "$build/bin/llama-bench"
