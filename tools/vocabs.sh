#!/bin/sh
# Fetch llama.cpp's published vocabularies with their expectations into DIR, for ALULA_VOCABS=DIR (82 MB).
# They come with the source of the llama-cpp-sys-2 crate, else with that of the llama-cpp-python package.
set -eu
dir=${1:?usage: tools/vocabs.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p crate/src
printf '[package]\nname = "vocabs"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\nllama-cpp-sys-2 = "*"\n' >crate/Cargo.toml
: >crate/src/lib.rs
if (cd crate && cargo vendor --quiet ../vendor >/dev/null 2>&1); then
    found=$(find vendor -name 'ggml-vocab-*.gguf' | head -1)
else
    found=
fi
if [ -z "$found" ] || [ ! -e "$found.inp" ]; then
    python3 -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation llama-cpp-python -d sdist
    tar -xzf sdist/*.tar.gz
    found=$(find . -name 'ggml-vocab-*.gguf.inp' | head -1)
fi
cp "$(dirname "$found")"/ggml-vocab-* "$dir"
ls "$dir"/*.inp | wc -l | xargs printf '%s vocabularies with expectations\n'
