"""Collects published chat templates, which are their models' own and not part of this repository, as NAME.jinja.

    collect_chat_templates.py [OUT]      (OUT: ~/.cache/espalier/templates)

Sources, each by hash, each left out with a line where it is not there:
- llama-cpp-python 0.3.36's sdist (bench/peers/build_llama_cpp.sh downloads it): files and string literals
- mistral-common 1.13.1 (pip install mistral-common==1.13.1): the generator of Mistral's own templates
- the GGUF files of scripts/test.sh: tokenizer.chat_template
"""
# SPDX-License-Identifier: Apache-2.0
import hashlib
import importlib.metadata
import os
import re
import struct
import sys
import tarfile

CACHE = os.environ.get("ESPALIER_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "espalier")
SDIST = "llama_cpp_python-0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FILES = {
    "meta-llama-Llama-3.3-70B-Instruct": "llama33", "Qwen-QwQ-32B": "qwq", "Qwen3-Coder": "qwen3_coder",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "r1_distill_qwen", "llama-cpp-deepseek-r1": "r1_tools",
    "microsoft-Phi-3.5-mini-instruct": "phi35", "HuggingFaceTB-SmolLM3-3B": "smollm3",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral_small32", "mistralai-Ministral-3-14B-Reasoning-2512": "ministral3",
    "unsloth-mistral-Devstral-Small-2507": "devstral"}
LITERALS = {
    "teknium/OpenHermes-2.5-Mistral-7B": "chatml", "mistralai/Mistral-7B-Instruct-v0.2 (NOTE": "mistral_v02",
    "mistralai/Mistral-7B-Instruct-v0.2 (mistralai": "mistral_v1", "Mistral-Large-Instruct-2407": "mistral_v3_large",
    "Mistral-Nemo-Instruct-2407": "mistral_v3_tekken", "mistralai/Mistral-Large-Instruct-2411": "mistral_v7",
    "google/gemma-7b-it": "gemma1", "Llama-3": "llama3", "Phi-3-mini": "phi3_mini", "Phi-3-small": "phi3_small",
    "Phi-3-medium": "phi3_medium", "phi-4": "phi4"}
MISTRAL = {"v1": (True, {}), "v2": (True, {}), "v3": (True, {}), "v3-tekken": (False, {}), "v7": (True, {}),
           "v7-tekken": (False, {"image_support": True}), "v11": (False, {}), "v13": (False, {"thinking_support": True})}
GGUF = {"SmolLM2-135M-Instruct.Q4_1.gguf": "gguf_smollm2", "gemma-3-270m-q4_k_m.gguf": "gguf_gemma3",
        "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf": "gguf_qwen25_coder"}


def absent(what):
    print(f"not there: {what}", file=sys.stderr)


def unquoted(text):
    """Adjacent C string literals -> what they stand for."""
    parts = re.match(r'(\s*(R"\((?:.|\n)*?\)"|"(?:\\.|[^"\\])*"))+', text)
    out = ""
    for raw, plain in re.findall(r'R"\(((?:.|\n)*?)\)"|"((?:\\.|[^"\\])*)"', parts.group(0)):
        out += raw or re.sub(r'\\(.)', lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), plain)
    return out


def from_sdist():
    path = os.path.join(CACHE, "peers", SDIST + ".tar.gz")
    if not os.path.exists(path):
        return absent(path)
    with open(path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SDIST_SHA256, path
    root = SDIST + "/vendor/llama.cpp/"
    with tarfile.open(path) as tar:
        for member in tar:
            name = member.name.removeprefix(root)
            if name.startswith("models/templates/") and os.path.basename(name)[:-6] in FILES:
                yield FILES[os.path.basename(name)[:-6]], tar.extractfile(member).read().decode()
            if name == "tests/test-chat-template.cpp":
                text = tar.extractfile(member).read().decode()
                for wanted, short in LITERALS.items():
                    at = re.search(r'\.name= \*/ "' + re.escape(wanted) + r'[^\n]*\n\s*/\* \.template_str= \*/', text)
                    yield short, unquoted(text[at.end():])


def from_mistral_common():
    try:
        assert importlib.metadata.version("mistral-common") == "1.13.1"
        from mistral_common.integrations.chat_templates.template_generator import TemplateConfig, build_chat_template
        from mistral_common.tokens.tokenizers.base import TokenizerVersion
    except (ImportError, AssertionError) as error:
        return absent(f"mistral-common 1.13.1 ({error})")
    for name, (spm, more) in MISTRAL.items():
        config = dict(image_support=False, audio_support=False, thinking_support=False, plain_thinking_support=False,
                      use_special_token_variables=True)
        version = TokenizerVersion(name.split("-")[0])
        yield "mistral_common_" + name.replace("-", "_"), build_chat_template(
            TemplateConfig(version=version, spm=spm, **{**config, **more}))


def from_gguf():
    for name, short in GGUF.items():
        path = os.path.join(CACHE, "models", name)
        if not os.path.exists(path):
            absent(path)
            continue
        with open(path, "rb") as file:
            head = file.read(32 << 20)
        key = b"tokenizer.chat_template"
        mark = struct.pack("<Q", len(key)) + key + struct.pack("<I", 8)
        at = head.find(mark) + len(mark)
        if at < len(mark):
            absent(f"a chat template in {path}")
            continue
        size = struct.unpack_from("<Q", head, at)[0]
        yield short, head[at + 8:at + 8 + size].decode()


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(CACHE, "templates")
    os.makedirs(out, exist_ok=True)
    for source in (from_sdist, from_mistral_common, from_gguf):
        for name, text in source():
            with open(os.path.join(out, name + ".jinja"), "wb") as file:
                file.write(text.encode())


main()
