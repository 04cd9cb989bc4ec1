"""vLLM in this process, as the runner drives it: a job a line on stdin, its figures a line on stdout.

    {"prompt": 128, "output": 64, "streams": 16} -> {"prefill_tok_s": ..., "decode_tok_s": ...}

prefill is all prompts' tokens over the time until the last of them has its first token; decode is what came after that.
Prompts are random ids and distinct; the prefix cache is off. The first job of a shape is run once unmeasured.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import random
import sys
import time


def run(engine, parameters, job, seed):
    ids = random.Random(seed)
    prompts, output = job["streams"], job["output"]
    for number in range(prompts):
        prompt = {"prompt_token_ids": [ids.randrange(1000, 49000) for _ in range(job["prompt"])]}
        engine.add_request(f"{seed}-{number}", prompt, parameters(temperature=0, max_tokens=output, ignore_eos=True))
    made, first_s, at_first = {}, None, 0
    begin = time.perf_counter()
    while engine.has_unfinished_requests():
        for answer in engine.step():
            made[answer.request_id] = len(answer.outputs[0].token_ids)
        if first_s is None and len(made) == prompts and min(made.values()) > 0:
            first_s, at_first = time.perf_counter() - begin, sum(made.values())
    decode_s = time.perf_counter() - begin - first_s
    if sum(made.values()) != prompts * output:
        raise RuntimeError(f"{sum(made.values())} tokens came; wanted {prompts * output}")
    return {"prefill_tok_s": prompts * job["prompt"] / first_s,
            "decode_tok_s": (prompts * output - at_first) / decode_s if output > 1 else 0}


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what vLLM prints is a log, not an answer
    from vllm import LLM, SamplingParams
    engine = LLM(model=sys.argv[1], dtype="bfloat16", max_model_len=2048, max_num_seqs=32, max_num_batched_tokens=4096,
                 enable_prefix_caching=False, disable_log_stats=True).llm_engine
    seen, seed = set(), 0
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        shape = tuple(sorted(job.items()))
        for _ in range(1 if shape in seen else 2):
            seed += 1
            figures = run(engine, SamplingParams, job, seed)
        seen.add(shape)
        print(json.dumps(figures), file=answers, flush=True)


if __name__ == "__main__":
    main()
