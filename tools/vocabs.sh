#!/usr/bin/env bash
# Fetches the vocabularies and chat templates that llama.cpp's source package carries, with pip, once, and prints
#   export ALULA_VOCABS=… ; export ALULA_TEMPLATES=…
# for the tests of crates/tokenizer and crates/template.
set -euo pipefail
dir=${ALULA_FETCHED:-${TMPDIR:-/tmp}/alula-fetched}
version=0.3.36
models=$dir/llama_cpp_python-$version/vendor/llama.cpp/models
if [ ! -d "$models/templates" ]; then
  mkdir -p "$dir"
  python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install -q --disable-pip-version-check scikit-build-core cmake ninja >&2
  PATH=$dir/venv/bin:$PATH "$dir/venv/bin/pip" download -q --disable-pip-version-check --no-deps --no-binary :all: \
    --no-build-isolation -d "$dir" "llama-cpp-python==$version" >&2
  tar -xzf "$dir/llama_cpp_python-$version.tar.gz" -C "$dir" "llama_cpp_python-$version/vendor/llama.cpp/models"
  rm "$dir/llama_cpp_python-$version.tar.gz"
fi
echo "export ALULA_VOCABS=$models"
echo "export ALULA_TEMPLATES=$models/templates"
