#!/usr/bin/env bash
# Every lint, each by name; goes on after a failure so that one run shows all of them.
set -u
python=${1:-.venv/bin/python}
cargo_deny=${2:-cargo-deny}
bin=$(dirname "$python")
failed=()

check() {
    local name=$1
    shift
    echo "  $name"
    "$@" || failed+=("$name")
}

check "rustfmt" cargo fmt --check
check "clippy" cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
check "ruff check" "$python" -m ruff check --quiet .
check "ruff format" "$python" -m ruff format --quiet --check .
check "mypy" "$python" -m mypy --no-error-summary
check "stubtest" env MYPYPATH=kernels/python "$python" -m mypy.stubtest forebay_kernels._native
check "import walls" "$bin/lint-imports" --no-cache
check "architecture map" "$python" tools/check_map.py
check "mutants apply" "$python" tools/check_mutants.py --apply-only
check "generated protobuf code" "$python" tools/generate_proto.py --check
check "dependencies" "$cargo_deny" --log-level error check --hide-inclusion-graph bans licenses sources
check "chat template fixture" "$python" router/text/tests/fixtures/make_templates.py --check

if [ ${#failed[@]} -gt 0 ]; then
    printf 'lint failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
