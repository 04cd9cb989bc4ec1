"""Writes real_models.jsonl: greedy continuations of two real models by llama.cpp and by transformers in float32.

    make_real_models.py --binary ESPALIER --gemma3 FILE.gguf --qwen2 FILE.gguf

Needs: pip install torch transformers==4.57.1 gguf==0.19.0 xllamacpp==2026.10.11549

llama.cpp rounds activations to 8 bits when weights are quantised, so where two tokens are close it may leave the path
that the weights themselves name. So it is run twice: on the file, and on a file of the same weights dequantised to
float32, where nothing is rounded. A third path is transformers' in float32 on the same weights. BINARY only turns
prompts into ids (`tokenize --parse-special`); llama.cpp's own count of them must agree.

A row for each prompt (the texts are in PROMPTS below):
    model, prompt      "gemma3" or "qwen2"; the text, special tokens and all
    ids                the prompt's tokens
    llama              llama.cpp's greedy tokens on the file: STEPS of them, or fewer when it ended
    llama_f32, llama_f32_text    the same on the dequantised weights, with a float32 cache; and their text
    float32, margins   transformers' greedy tokens on the same weights; best minus second-best logit at each step
    split, gap         first step at which llama.cpp picks another token than float32, and by how many logits float32
                       prefers its own; absent when they are equal
    picks, lse         for a check of another reference: of the prompt's last position, the logits of the ids `columns`
                       (in the first row of a model); of each position, log sum exp of its logits
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
import transformers as tf

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, COLUMN_COUNT, LSE_PROMPTS = 48, 48, 3


def text_section(number):
    with open(os.path.join(HERE, "texts.txt"), encoding="utf-8") as file:
        return file.read().split("\n%%\n")[number].strip("\n")


def chat(question, system="You are a helpful assistant."):
    return (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
            "<|im_start|>assistant\n")


PROMPTS = {
    "gemma3": [
        "The capital of France is",
        "Once upon a time there was a lighthouse keeper who",
        "To make a simple tomato soup, you need",
        "The three laws of thermodynamics can be stated as follows:",
        "def binary_search(items, wanted):\n    low, high = 0, len(items)\n",
        "Im Jahr 1492 segelte Christoph Kolumbus",
        "La photosynthèse est le processus par lequel",
        "Q: Why is the sky blue?\nA:",
        "Dear Ms. Okafor,\n\nThank you for your letter of 3 March. We are sorry to hear that",
        "\n\n".join(text_section(i) for i in (0, 1)),  # longer than the window of 512
    ],
    "qwen2": [
        chat("Write a Python function that checks whether a string is a palindrome."),
        chat("What does the SQL keyword HAVING do, and how does it differ from WHERE?"),
        chat("Write a shell script that counts the lines of all .c files below the current directory."),
        chat("Explain in simple words what a hash table is."),
        chat("Schreibe eine C-Funktion, die zwei sortierte Felder zusammenführt."),
        "def fibonacci(n):\n    \"\"\"The n-th Fibonacci number, iteratively.\"\"\"\n",
        "#include <stdio.h>\n\n/* Prints the prime numbers below the limit. */\nvoid print_primes(int limit) {\n",
        "-- The ten customers with the highest total of orders in 2023\nSELECT",
        "The capital of France is",
        text_section(2),
    ],
}


def read_gguf(path):
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    tensors = {t.name: np.array(gguf.quants.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    return lambda key: reader.fields[f"{arch}.{key}"].contents(), tensors


def common_config(key, tensors):
    return dict(vocab_size=tensors["token_embd.weight"].shape[0], hidden_size=key("embedding_length"),
                intermediate_size=key("feed_forward_length"), num_hidden_layers=key("block_count"),
                num_attention_heads=key("attention.head_count"), num_key_value_heads=key("attention.head_count_kv"),
                rms_norm_eps=key("attention.layer_norm_rms_epsilon"), rope_theta=key("rope.freq_base"),
                max_position_embeddings=key("context_length"), attn_implementation="eager")


COMMON_NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
                "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
                "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm"}


def load(model, tensors, names, is_norm):
    state = {}
    for name in list(tensors):
        value = torch.from_numpy(tensors.pop(name))
        part = name.split(".")
        if is_norm and "norm" in name:
            value = value - 1  # the file has the 1 of 1 + w added
        if name == "token_embd.weight":
            state["model.embed_tokens.weight"] = value
        elif name == "output_norm.weight":
            state["model.norm.weight"] = value
        elif name == "output.weight":
            state["lm_head.weight"] = value
        else:
            state[f"model.layers.{part[1]}.{names[part[2]]}.{part[3]}"] = value
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def load_gemma3(path):
    key, tensors = read_gguf(path)
    config = tf.Gemma3TextConfig(**common_config(key, tensors), head_dim=key("attention.key_length"),
                                 sliding_window=key("attention.sliding_window"), rope_local_base_freq=10000.0,
                                 query_pre_attn_scalar=key("attention.key_length"))
    names = COMMON_NAMES | {"ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
                            "post_attention_norm": "post_attention_layernorm", "attn_q_norm": "self_attn.q_norm",
                            "attn_k_norm": "self_attn.k_norm"}
    return load(tf.Gemma3ForCausalLM(config).float(), tensors, names, True)


def load_qwen2(path):
    key, tensors = read_gguf(path)
    config = tf.Qwen2Config(**common_config(key, tensors), tie_word_embeddings="output.weight" not in tensors)
    return load(tf.Qwen2ForCausalLM(config).float(), tensors,
                COMMON_NAMES | {"ffn_norm": "post_attention_layernorm"}, False)


LOADERS = {"gemma3": load_gemma3, "qwen2": load_qwen2}


def tokenize(binary, path, text):
    done = subprocess.run([binary, "tokenize", "--model", path, "--parse-special", "--text", text],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def write_dequantised(path, out):
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        of_array = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=of_array)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for t in reader.tensors:
        writer.add_tensor(t.name, np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_greedy_f32(path, prompts):
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "f32.gguf")
        write_dequantised(path, file)
        return llama_greedy(file, prompts, STEPS, True)


def llama_greedy(path, prompts, steps, f32_cache=False):
    """(ids, text, prompt tokens) of each. In a process of its own: the peer's logging and memory stay out of ours."""
    code = """
import json, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = sys.argv[1], 4096, 1, 2
if int(sys.argv[3]):
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
server = xllamacpp.Server(params)
for prompt in json.load(sys.stdin):
    done = server.handle_completions({"prompt": prompt, "temperature": 0, "max_tokens": int(sys.argv[2]),
                                      "cache_prompt": False, "repeat_penalty": 1.0, "logprobs": 1})
    print("ROW" + json.dumps(done), flush=True)
"""
    command = [sys.executable, "-c", code, path, str(steps), str(int(f32_cache))]
    done = subprocess.run(command, input=json.dumps(prompts), capture_output=True, text=True, check=True)
    # Its log is written to the same stream, also in the middle of a line.
    rows = [json.JSONDecoder().raw_decode(part)[0] for part in done.stdout.split("ROW")[1:]]
    assert len(rows) == len(prompts)
    return [([token["id"] for token in row["choices"][0]["logprobs"]["content"]], row["choices"][0]["text"],
             row["usage"]["prompt_tokens"]) for row in rows]


@torch.no_grad()
def greedy(model, ids, steps):
    """Tokens, margins, and the logits of each step."""
    picked, margins, rows, past, step = [], [], [], None, torch.tensor([ids])
    for _ in range(steps):
        out = model(step, past_key_values=past, use_cache=True, logits_to_keep=1)
        logits = out.logits[0, -1]
        best = torch.topk(logits, 2)
        picked.append(int(best.indices[0]))
        margins.append(round(float(best.values[0] - best.values[1]), 5))
        rows.append(logits)
        past, step = out.past_key_values, torch.tensor([[picked[-1]]])
    return picked, margins, rows


@torch.no_grad()
def position_logits(model, ids):
    return model(torch.tensor([ids])).logits[0].numpy()


def log_sum_exp(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    return (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[..., 0]


def write_model(name, path, arguments, file):
    ours, f32 = llama_greedy(path, PROMPTS[name], STEPS), llama_greedy_f32(path, PROMPTS[name])
    model = LOADERS[name](path)
    columns = np.sort(np.random.default_rng(7).choice(model.config.vocab_size, COLUMN_COUNT, replace=False))
    with open(path, "rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    json.dump({"model": name, "sha256": digest, "llama.cpp": "xllamacpp 2026.10.11549",
               "float32": f"transformers {tf.__version__}", "columns": columns.tolist()}, file)
    file.write("\n")
    for number, prompt in enumerate(PROMPTS[name]):
        ids = tokenize(arguments.binary, path, prompt)
        llama, _, prompt_tokens = ours[number]
        assert prompt_tokens == len(ids), "llama.cpp tokenises otherwise"
        picked, margins, logits = greedy(model, ids, STEPS)
        row = {"model": name, "prompt": prompt, "ids": ids, "llama": llama, "llama_f32": f32[number][0],
               "llama_f32_text": f32[number][1], "float32": picked, "margins": margins}
        split = next((i for i, (a, b) in enumerate(zip(llama, picked)) if a != b), None)
        if split is not None:
            row["split"] = split
            row["gap"] = round(float(logits[split][picked[split]] - logits[split][llama[split]]), 5)
        if number < LSE_PROMPTS:
            all_logits = position_logits(model, ids)
            row["picks"] = [round(float(x), 5) for x in all_logits[-1][columns]]
            row["lse"] = [round(float(x), 5) for x in log_sum_exp(all_logits)]
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(name, len(ids), len(llama), len(f32[number][0]), row.get("split"), row.get("gap"), repr(f32[number][1]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    for name in LOADERS:
        parser.add_argument("--" + name, required=True, metavar="FILE.gguf")
    arguments = parser.parse_args()
    with open(os.path.join(HERE, "real_models.jsonl"), "w", encoding="utf-8") as file:
        for name in LOADERS:
            write_model(name, getattr(arguments, name), arguments, file)


if __name__ == "__main__":
    sys.exit(main())
