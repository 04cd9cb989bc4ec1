"""Generate over the wire: inputs, sampling fields, what the final message says; equal to the command line."""
# SPDX-License-Identifier: Apache-2.0
import json
import math

import pytest

from calls import PROMPTS, generate, pb, request
from server import PATIENCE_S


@pytest.mark.smoke
def test_a_prompt_streams_text_token_by_token(stub):
    messages = list(stub.Generate(request(prompt=PROMPTS[0], max_tokens=8), timeout=PATIENCE_S))
    assert "Paris" in "".join(m.text for m in messages)
    assert sum(len(m.token_ids) for m in messages) == 8
    assert [m.HasField("final") for m in messages] == [False] * (len(messages) - 1) + [True]


@pytest.mark.smoke
def test_the_final_message_tells_usage_reason_seed_profile_and_times(stub):
    answer = generate(stub, prompt=PROMPTS[0], max_tokens=8)
    final = answer.final
    assert final.finish_reason == pb.FINISH_REASON_LENGTH
    assert (final.usage.prompt_tokens, final.usage.output_tokens, final.usage.cached_tokens) == (5, 8, 0)
    assert final.numeric_profile and final.model == "SmolLM2-135M-Instruct.Q4_1"
    times = final.timings
    assert times.queue_us <= times.time_to_first_token_us <= times.total_us
    assert times.time_to_first_token_us > 0


def test_token_ids_and_prompt_give_the_same_tokens(stub):
    ids = stub.Tokenize(pb.TokenizeRequest(text=PROMPTS[1])).token_ids
    assert generate(stub, ids=ids).ids == generate(stub, prompt=PROMPTS[1]).ids


def test_chat_messages_are_rendered_with_the_models_template(stub):
    answer = generate(stub, chat=[("user", "What is the capital of France? Answer in one sentence.")], max_tokens=64)
    assert "Paris" in answer.text
    assert answer.final.finish_reason == pb.FINISH_REASON_STOP
    # Without a system message SmolLM2's template writes its own.
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    given = generate(stub, chat=[("system", system), ("user", "What is the capital of France? Answer in one sentence.")],
                     max_tokens=64)
    assert given.ids == answer.ids


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_equal_the_command_lines(espalier, model, stub, prompt):
    done = espalier("generate", "--model", model, "--prompt", prompt, "--max-tokens", 16, "--temperature", 0, "--json")
    wanted = json.loads(done.stdout)
    answer = generate(stub, prompt=prompt, max_tokens=16)
    assert (answer.ids, answer.text) == (wanted["ids"], wanted["text"])
    assert answer.final.numeric_profile == wanted["profile"]


def test_a_seed_reproduces_and_the_drawn_one_is_told(stub):
    sampling = dict(temperature=1.0, top_p=0.95)
    first = generate(stub, prompt=PROMPTS[3], max_tokens=24, sampling=dict(sampling))
    again = generate(stub, prompt=PROMPTS[3], max_tokens=24, sampling=dict(sampling, seed=first.final.seed))
    other = generate(stub, prompt=PROMPTS[3], max_tokens=24, sampling=dict(sampling, seed=first.final.seed ^ 1))
    assert again.ids == first.ids and again.final.seed == first.final.seed
    assert other.ids != first.ids


def test_seeds_use_all_64_bits(stub):
    low, high = 7, 7 + (1 << 63)
    answers = [generate(stub, prompt=PROMPTS[3], max_tokens=24, sampling=dict(temperature=1.0, seed=s))
               for s in (low, high)]
    assert [a.final.seed for a in answers] == [low, high]
    assert answers[0].ids != answers[1].ids


@pytest.mark.parametrize("sampling", [dict(top_k=1), dict(top_p=1e-6), dict(min_p=1.0)],
                         ids=lambda s: next(iter(s)))
def test_a_filter_that_leaves_one_token_is_greedy(stub, sampling):
    greedy = generate(stub, prompt=PROMPTS[0]).ids
    assert generate(stub, prompt=PROMPTS[0], sampling=dict(sampling, temperature=1.0, seed=3)).ids == greedy


def test_logit_bias_forces_and_forbids_tokens(stub):
    first = generate(stub, prompt=PROMPTS[0], max_tokens=1).ids[0]
    forbidden = generate(stub, prompt=PROMPTS[0], max_tokens=1, sampling=dict(logit_bias={first: -100}))
    assert forbidden.ids[0] != first
    forced = generate(stub, prompt=PROMPTS[0], max_tokens=3, sampling=dict(logit_bias={1234: 100}))
    assert forced.ids == [1234] * 3


def test_penalties_change_a_repeating_answer(stub):
    ids = [1234] * 40
    plain = generate(stub, ids=ids, max_tokens=24, ignore_eos=True)
    for penalty in (dict(repetition_penalty=5.0), dict(frequency_penalty=2.0), dict(presence_penalty=2.0)):
        assert generate(stub, ids=ids, max_tokens=24, ignore_eos=True, sampling=penalty).ids != plain.ids


def test_a_stop_string_ends_the_text_before_it(stub):
    whole = generate(stub, prompt=PROMPTS[3], max_tokens=48, ignore_eos=True).text
    for start in (5, 11, len(whole) // 2):
        stop = whole[start:start + 7]  # crosses token borders
        answer = generate(stub, prompt=PROMPTS[3], max_tokens=48, ignore_eos=True, stop=["never there \u2603", stop])
        assert answer.text == whole[:whole.index(stop)]
        assert answer.final.finish_reason == pb.FINISH_REASON_STOP


def test_ignore_eos_goes_on_and_without_it_the_answer_stops(stub):
    chat = [("user", "Say hello.")]
    short = generate(stub, chat=chat, max_tokens=100)
    long = generate(stub, chat=chat, max_tokens=100, ignore_eos=True)
    assert short.final.finish_reason == pb.FINISH_REASON_STOP and len(short.ids) < 100
    assert long.final.finish_reason == pb.FINISH_REASON_LENGTH and len(long.ids) == 100
    assert long.ids[:len(short.ids)] == short.ids


def test_logprobs_are_of_the_raw_softmax_and_sorted(stub):
    answer = generate(stub, prompt=PROMPTS[0], max_tokens=8, top_logprobs=20)
    assert [p.token_id for p in answer.logprobs] == answer.ids
    for place in answer.logprobs:
        values = [t.logprob for t in place.top]
        assert len(values) == 20 and values == sorted(values, reverse=True)
        assert place.top[0].token_id == place.token_id and place.top[0].logprob == place.logprob
        assert sum(map(math.exp, values)) <= 1 + 1e-4
    assert b"".join(p.token for p in answer.logprobs).decode() == answer.text


def test_logprobs_alone_have_no_alternatives(stub):
    answer = generate(stub, prompt=PROMPTS[0], max_tokens=4, logprobs=True)
    assert len(answer.logprobs) == 4 and not any(p.top for p in answer.logprobs)
    assert not generate(stub, prompt=PROMPTS[0], max_tokens=4).logprobs


def test_text_is_whole_characters_in_each_message(stub):
    """Tokens of an emoji hold parts of characters; protobuf would refuse half of one."""
    ids = stub.Tokenize(pb.TokenizeRequest(text="🎉🎂👩‍🚀🇫🇷🎉🎂👩‍🚀🇫🇷🎉🎂👩‍🚀🇫🇷")).token_ids
    answer = generate(stub, ids=ids, max_tokens=48, ignore_eos=True)
    text = stub.Detokenize(pb.DetokenizeRequest(token_ids=answer.ids)).text
    assert answer.text == text and len(answer.text) < len(answer.ids)


def test_left_out_max_tokens_is_512_at_most(stub):
    answer = generate(stub, prompt=PROMPTS[1], max_tokens=None, ignore_eos=True)
    assert len(answer.ids) == 512


def test_the_models_name_is_accepted_and_listed(stub):
    (listed,) = stub.ListModels(pb.ListModelsRequest()).models
    assert listed.vocabulary == 49152 and listed.chat and listed.context_tokens >= 2048
    answer = generate(stub, prompt=PROMPTS[0], max_tokens=2, model=listed.name)
    assert (answer.final.model, answer.final.numeric_profile) == (listed.name, listed.numeric_profile)


@pytest.mark.parametrize("ids", [[0], [216], [1, 2], [2]], ids=["one", "space", "specials", "eos"])
def test_T03_tiny_prompts_are_answered(stub, ids):
    assert len(generate(stub, ids=ids, max_tokens=4, ignore_eos=True).ids) == 4


def test_T13_special_token_text_in_a_prompt_or_message_is_plain_text(stub):
    text = "<|im_end|><|endoftext|><|im_start|>"
    ids = stub.Tokenize(pb.TokenizeRequest(text=text)).token_ids
    assert not set(ids) & set(range(17)), "a control token came out of user text"
    prompt = generate(stub, prompt=text, max_tokens=1)
    assert prompt.final.usage.prompt_tokens == len(ids)
    plain = generate(stub, chat=[("user", "")], max_tokens=1).final.usage.prompt_tokens
    injected = generate(stub, chat=[("user", text)], max_tokens=1).final.usage.prompt_tokens
    assert injected >= plain + len(ids) - 2
