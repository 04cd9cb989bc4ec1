#!/usr/bin/env bash
# test.sh - installs what the tests need, builds, and runs every test there is through ctest.
#
#   ./scripts/test.sh [--release-only] [CTEST-ARGUMENT...]
#
# Three builds: release (everything), asan+ubsan (unit tests, fuzz corpora, a smoke end to end), tsan
# (the parts with threads, a smoke end to end); one ctest run over all of them, its summary last, its exit
# code ours. Nothing of a result is kept: each run runs each test. --release-only leaves the sanitizers out.
# What no registry gives (the model, the Python client) makes its tests say "skipped: not downloaded".
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VENV="$CACHE/venv-tests"
REQUIREMENTS="$ROOT/tests/e2e/requirements.txt"

# The real client: grpcio in a venv of its own. A stamp of what was asked makes the next run skip.
install_client() {
    local wanted
    wanted="$(python3 --version) $(sha256sum <"$REQUIREMENTS")"
    [ "$(cat "$VENV/.stamp" 2>/dev/null)" != "$wanted" ] || return 0
    say "installing the Python client into $VENV"
    rm -rf "$VENV"
    venv_python "$VENV"
    if logged venv-tests "$VENV/bin/pip" install --disable-pip-version-check -r "$REQUIREMENTS"; then
        echo "$wanted" >"$VENV/.stamp"
    else
        # tests/e2e/run.sh finds no interpreter and says so.
        rm -rf "$VENV"
        say "end-to-end tests will be skipped: not downloaded (see build/logs/venv-tests.log)"
    fi
}

# Published chat templates, out of what was downloaded before (bench/peers, models); tests skip the rest.
collect_templates() {
    [ -d "$CACHE/templates" ] || logged chat-templates python3 "$ROOT/tests/vectors/collect_chat_templates.py" ||
        say "tests of some chat templates will be skipped: not there (see build/logs/chat-templates.log)"
}

# Only a build with CUDA kernels has something to disassemble.
bring_disassembler() {
    command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || return 0
    "$ROOT/scripts/fetch_disassembler.sh" ||
        say "the test of the kernels' instructions will be skipped: not downloaded (see build/logs/venv-sass.log)"
}

build_all() {
    local preset
    for preset in "$@"; do
        # Once configured, ninja itself calls cmake again when it must.
        if ! grep -qs '^ESPALIER_TESTS:BOOL=ON' "$ROOT/build/$preset/CMakeCache.txt" ||
            [ ! -f "$ROOT/build/$preset/build.ninja" ]; then
            configure_preset "$preset" -DESPALIER_TESTS=ON -DESPALIER_CUDA=AUTO
        fi
        build_preset "$preset"
    done
}

main() {
    local presets=(release asan tsan) configuration=(-C sanitizers)
    if [ "${1:-}" = --release-only ]; then
        presets=(release)
        configuration=()
        shift
    fi
    install_packages build server fetch test
    install_client
    fetch_encoder || say "tests of the real encoder will be skipped: not downloaded (see build/logs/fetch-encoder.log)"
    fetch_model || say "tests of the real model will be skipped: not downloaded (see build/logs/fetch-model.log)"
    ESPALIER_CACHE="$CACHE" collect_templates
    bring_disassembler
    "$ROOT/scripts/fetch_models.sh"
    build_all "${presets[@]}"
    say "running ctest"
    # CTest's own list of what failed last time is not asked for: no --rerun-failed, no result kept.
    export ESPALIER_CACHE="$CACHE" ESPALIER_MODEL="$MODEL"
    cd "$ROOT/build/release"
    exec ctest "${configuration[@]}" --output-on-failure --no-tests=error -j "$(nproc)" "$@"
}

main "$@"
