"""Requests in few words, and answers put together again."""
# SPDX-License-Identifier: Apache-2.0
import random
from dataclasses import dataclass, field

from espalier.v1 import inference_pb2 as pb

PROMPTS = [
    "The capital of France is",
    "def add(a, b):\n    return",
    "Am Morgen lag der Nebel noch so dicht über dem Fluss, dass man",
    "Once upon a time there was a gardener who",
    "春眠不觉晓,",
]


@dataclass
class Answer:
    ids: list = field(default_factory=list)
    text: str = ""
    logprobs: list = field(default_factory=list)
    messages: int = 0
    final: pb.Final = None


def request(prompt=None, ids=None, chat=None, max_tokens=16, sampling=None, **fields):
    """chat: [(role, content)]; sampling: a dict; fields: of GenerateRequest. max_tokens None: left out."""
    out = pb.GenerateRequest(**fields)
    if prompt is not None:
        out.prompt = prompt
    if ids is not None:
        out.token_ids.ids.extend(ids)
    if chat is not None:
        out.chat.SetInParent()
        for role, content in chat:
            out.chat.messages.add(role=role, content=content)
    if max_tokens is not None:
        out.max_tokens = max_tokens
    if sampling is not None:
        bias = sampling.pop("logit_bias", {})
        out.sampling.CopyFrom(pb.Sampling(**sampling))
        for key, value in bias.items():
            out.sampling.logit_bias[key] = value
    return out


def collect(stream):
    """Reads a whole stream; checks what holds for every one."""
    answer = Answer()
    for message in stream:
        assert answer.final is None, "a message after the final one"
        answer.messages += 1
        answer.ids += message.token_ids
        answer.text += message.text
        answer.logprobs += message.logprobs
        if message.HasField("final"):
            answer.final = message.final
    assert answer.final is not None, "the stream ended with OK but without a final message"
    assert answer.final.usage.output_tokens == len(answer.ids)
    return answer


def generate(stub, timeout=300, metadata=None, **fields):
    return collect(stub.Generate(request(**fields), timeout=timeout, metadata=metadata))


def mixed_requests(count, seed=1):
    """Seeded requests of mixed prompt lengths, output lengths and sampling, with logprobs."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        length = rng.choice([1, 2, 7, 15, 16, 17, 33, 64, 100, 180])
        sampling = None
        if i % 2:
            sampling = dict(temperature=rng.choice([0.7, 1.0]), top_p=rng.choice([0, 0.9]),
                            top_k=rng.choice([0, 40]), seed=rng.getrandbits(63))
        out.append(dict(ids=[rng.randrange(20, 49000) for _ in range(length)], sampling=sampling,
                        max_tokens=rng.choice([1, 5, 16, 24]), ignore_eos=True, top_logprobs=i % 3))
    return out


def bits(answer):
    """What must be equal to the last bit."""
    return (answer.ids, answer.text,
            [(p.token_id, p.logprob, p.token, [(t.token_id, t.logprob) for t in p.top]) for p in answer.logprobs])
