#!/usr/bin/env bash
# The tests of the SIMD and kernel crates for ARM64 (NEON, dot products, i8mm), under emulation.
#
# Needs Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user, and Rust's standard library for ARM64:
# either `rustup target add aarch64-unknown-linux-gnu`, or its source, built here. ALULA_RUST_SRC then names a script
# to source that exports RUSTC_BOOTSTRAP=1 and __CARGO_TESTS_ONLY_SRC_ROOT, the `library` folder of that source.
#
#   tools/arm64.sh [arguments for cargo test, in place of the packages]
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu

for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
  if ! command -v "$tool" >/dev/null; then
    echo "arm64.sh: there is no $tool; install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" >&2
    exit 1
  fi
done

std=()
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
  if [ ! -f "${ALULA_RUST_SRC:-}" ]; then
    echo "arm64.sh: no standard library for $target; run \`rustup target add $target\` or set ALULA_RUST_SRC" >&2
    exit 1
  fi
  # shellcheck disable=SC1090
  source "$ALULA_RUST_SRC"
  std=(-Zbuild-std=std,test,panic_unwind)
fi

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu"
[ $# -gt 0 ] || set -- -p alula-simd -p alula-kernels
cargo test "$@" --target "$target" "${std[@]}"
