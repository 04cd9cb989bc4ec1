"""Every bad input ends in a status and a sentence that names the field and the limit; nobody else is harmed."""
# SPDX-License-Identifier: Apache-2.0
import math
import threading

import grpc
import pytest

from calls import PROMPTS, bits, collect, generate, pb, request
from conftest import field_violations
from server import PATIENCE_S

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module", autouse=True)
def neighbour(stub):
    """Someone else's request, running through the whole module; its tokens must be those of a quiet server."""
    fields = dict(prompt=PROMPTS[3], max_tokens=300, ignore_eos=True, logprobs=True)
    quiet, stop, wrong = bits(generate(stub, **fields)), threading.Event(), []

    def run():
        while not stop.is_set():
            try:
                if bits(generate(stub, **fields)) != quiet:
                    wrong.append("other tokens")
            except grpc.RpcError as error:
                wrong.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()
    assert not wrong, wrong


@pytest.fixture
def bad(stub, refused):
    """bad(code, words, **fields): Generate is refused so."""

    def check(code, *words, **fields):
        return refused(lambda: stub.Generate(request(**fields), timeout=PATIENCE_S), code, *words)

    return check


@pytest.mark.parametrize("fields, word", [
    (dict(), "input"),
    (dict(prompt=""), "prompt"),
    (dict(ids=[]), "token_ids"),
    (dict(chat=[]), "messages"),
], ids=["no-input", "prompt", "ids", "chat"])
def test_T03_an_empty_input_is_refused(bad, fields, word):
    bad(INVALID, word, **fields)


@pytest.mark.parametrize("sampling, field", [
    (dict(temperature=v), "temperature") for v in (-0.1, 10.5, 1e38, NAN, INF, -INF)] + [
    (dict(top_p=v), "top_p") for v in (-0.1, 1.1, NAN, INF)] + [
    (dict(min_p=v), "min_p") for v in (-0.1, 1.1, NAN, INF)] + [
    (dict(repetition_penalty=v), "repetition_penalty") for v in (-1, 10.5, NAN, INF)] + [
    (dict(presence_penalty=v), "presence_penalty") for v in (-2.1, 2.1, NAN, INF)] + [
    (dict(frequency_penalty=v), "frequency_penalty") for v in (-2.1, 2.1, NAN, -INF)] + [
    (dict(logit_bias={5: v}), "logit_bias") for v in (-100.5, 100.5, NAN, INF)] + [
    (dict(logit_bias={k: 1.0}), "logit_bias") for k in (-1, 49152, 2**31 - 1, -2**31)] + [
    (dict(logit_bias={k: 1.0 for k in range(1025)}), "logit_bias")],
    ids=lambda v: None if isinstance(v, str) else "-".join(
        f"{k}={len(x) if isinstance(x, dict) and len(x) > 1 else x}" for k, x in v.items()))
def test_T01_sampling_out_of_range_names_its_field(bad, sampling, field):
    error = bad(INVALID, field, prompt="Hello", sampling=dict(sampling))
    assert any(field in name for name in field_violations(error)), field_violations(error)


@pytest.mark.parametrize("fields, field", [
    (dict(max_tokens=0), "max_tokens"),
    (dict(max_tokens=2**32 - 1), "max_tokens"),
    (dict(max_tokens=1_000_000), "max_tokens"),
    (dict(top_logprobs=21), "top_logprobs"),
    (dict(top_logprobs=2**32 - 1), "top_logprobs"),
    (dict(priority=101), "priority"),
    (dict(priority=-2**31), "priority"),
], ids=lambda v: None if isinstance(v, str) else next(f"{k}={x}" for k, x in v.items()))
def test_T01_numbers_out_of_range_name_their_field(bad, fields, field):
    bad(INVALID, field, prompt="Hello", **fields)


@pytest.mark.parametrize("stop", [["x"] * 17, ["x"] * 10_000, [""], ["x" * 257], ["x" * 1_000_000]],
                         ids=["17", "10000", "empty", "257-bytes", "1-MB"])
def test_T01_absurd_stop_lists_are_refused(bad, stop):
    bad(INVALID, "stop", prompt="Hello", stop=stop)


@pytest.mark.parametrize("number", [-1, 49152, 2**31 - 1, -2**31])
def test_ids_out_of_range_are_refused_everywhere(bad, stub, refused, number):
    bad(INVALID, "token_ids", ids=[5, number, 7])
    refused(lambda: stub.Detokenize(pb.DetokenizeRequest(token_ids=[5, number])), INVALID, "token_ids")


def test_T03_prompts_of_the_contexts_length(bad, stub):
    """One token of room is enough; none, or one too many, is refused with the limit."""
    context = stub.ListModels(pb.ListModelsRequest()).models[0].context_tokens
    for length in (context, context + 1):
        bad(INVALID, str(context), ids=[100] * length, max_tokens=1)
    bad(INVALID, str(context), ids=[100] * 10, max_tokens=context)


def test_T03_a_prompt_that_fills_the_context_but_for_one_token_is_answered(start_server):
    server = start_server("--max-context", 256)
    with server.channel() as channel:
        assert len(generate(server.stub(channel), ids=[100] * 255, max_tokens=1).ids) == 1


def test_an_unknown_model_is_not_found_and_the_known_are_named(bad, stub, refused):
    known = stub.ListModels(pb.ListModelsRequest()).models[0].name
    code = grpc.StatusCode.NOT_FOUND
    for name in ("gpt-9", known + "x", known.lower(), "../" + known, "x" * 10_000):
        bad(code, known, prompt="Hello", model=name)
    refused(lambda: stub.Tokenize(pb.TokenizeRequest(model="gpt-9", text="x")), code, known)
    refused(lambda: stub.Detokenize(pb.DetokenizeRequest(model="gpt-9", token_ids=[5])), code, known)


def raw_call(channel, method, payload, stream=True):
    kind = channel.unary_stream if stream else channel.unary_unary
    return kind("/espalier.v1.Inference/" + method, request_serializer=None, response_deserializer=None)(
        payload, timeout=PATIENCE_S)


def tagged(number, payload):
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


@pytest.mark.parametrize("payload", [
    b"\xff", b"\x0a\x05abc", b"\x0a\xff\xff\xff\xff\x7f", b"\x12" + b"\xff" * 10, b"\x0b", b"\x1a\x02\x0a\x7f",
    b"\x08\x01\x0f", b"\x22\x05\x0a\x03\x0a\x7f\x41"])
def test_malformed_protobuf_is_refused(server, refused, payload):
    with server.channel() as channel:
        refused(lambda: raw_call(channel, "Generate", payload), INVALID)


@pytest.mark.parametrize("payload", [b"\xff", b"\x12\x05abc", b"\x12\xff\xff\xff\xff\x7f", b"\x0b", b"\x08\x01\x0f"])
@pytest.mark.parametrize("method", ["Tokenize", "Detokenize"])
def test_malformed_protobuf_is_refused_by_unary_methods(server, refused, method, payload):
    with server.channel() as channel:
        refused(lambda: raw_call(channel, method, payload, stream=False), INVALID)


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"a\x00b"],
                         ids=["byte", "half", "surrogate", "beyond", "overlong", "nul"])
def test_invalid_utf8_is_refused_and_named(server, refused, text):
    with server.channel() as channel:
        chat = tagged(4, tagged(1, tagged(1, b"user") + tagged(2, text)))
        refused(lambda: raw_call(channel, "Generate", tagged(2, text)), INVALID, "prompt")
        refused(lambda: raw_call(channel, "Generate", chat), INVALID, "content")
        refused(lambda: raw_call(channel, "Generate", tagged(2, b"hi") + tagged(7, text)), INVALID, "stop")
        refused(lambda: raw_call(channel, "Tokenize", tagged(2, text), stream=False), INVALID, "text")
        with pytest.raises(grpc.RpcError) as caught:
            list(raw_call(channel, "Generate", tagged(1, text) + tagged(2, b"hi")))
        assert caught.value.code() in (INVALID, grpc.StatusCode.NOT_FOUND)


def test_nested_message_bombs_are_refused_and_cheap(server, refused):
    """Groups and messages nested 10,000 deep in unknown and in known fields."""
    with server.channel() as channel:
        deep = b""
        for _ in range(10_000):
            deep = tagged(4, deep)
        many = b"\x1a\x00" * 500_000  # token_ids given half a million times
        for payload in (deep, b"\xa3\x06" * 10_000):
            refused(lambda: raw_call(channel, "Generate", payload), INVALID)
        # Small messages that would unpack into hundreds of thousands: what one request may cost has an end.
        for payload in (tagged(4, b"\x0a\x00" * 200_000), many):
            refused(lambda: raw_call(channel, "Generate", payload), grpc.StatusCode.RESOURCE_EXHAUSTED, "parts")


def test_T01_a_message_beyond_4_mib_is_refused(bad):
    bad(grpc.StatusCode.RESOURCE_EXHAUSTED, prompt="x" * (5 << 20))


def test_a_compressed_bomb_is_refused(server, refused):
    with server.channel() as channel:
        stub = server.stub(channel)
        big = request(prompt="x" * (64 << 20))
        refused(lambda: stub.Generate(big, timeout=PATIENCE_S, compression=grpc.Compression.Gzip),
                grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_conversation_with_too_many_messages_is_refused(bad):
    bad(INVALID, "messages", chat=[("user", "hi")] * 4097)


@pytest.mark.parametrize("role", ["", "root", "x" * 100_000], ids=["empty", "unknown", "long"])
def test_a_role_the_template_does_not_know_is_refused_or_answered(stub, role):
    """A template may take any role; what may not happen is a crash or a hang."""
    try:
        generate(stub, chat=[(role, "hi")], max_tokens=1)
    except grpc.RpcError as error:
        assert error.code() == INVALID and error.details()


def test_T12_a_long_word_without_spaces_is_answered(stub, refused):
    ids = stub.Tokenize(pb.TokenizeRequest(text="a" * 1_000_000), timeout=PATIENCE_S).token_ids
    assert len(ids) > 10_000
    refused(lambda: stub.Generate(request(prompt="a" * 1_000_000), timeout=PATIENCE_S), INVALID, "prompt")


def test_unknown_methods_and_services_are_unimplemented(server, refused):
    with server.channel() as channel:
        for path in ("/espalier.v1.Inference/Nothing", "/espalier.v1.Control/Stop", "/x", "/"):
            call = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=PATIENCE_S)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_T14_a_refusal_tells_no_path_and_no_pointer(bad, model):
    for code, fields in ((INVALID, dict(prompt="")), (INVALID, dict(ids=[-1])),
                         (grpc.StatusCode.NOT_FOUND, dict(prompt="x", model="/etc/passwd"))):
        sentence = bad(code, **fields).details()
        assert model not in sentence and "0x" not in sentence


def test_unknown_fields_are_ignored(server):
    with server.channel() as channel:
        payload = request(prompt="Hello", max_tokens=1).SerializeToString() + tagged(900, b"\xff" * 100)
        raw = raw_call(channel, "Generate", payload)
        answer = collect(pb.GenerateResponse.FromString(m) for m in raw)
        assert len(answer.ids) == 1


def test_T05_large_metadata_is_refused_and_the_connection_lives(server, stub, refused):
    with server.channel() as channel:
        own = server.stub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            generate(own, prompt="Hello", max_tokens=1, metadata=[("x-big", "x" * 200_000)])
        assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE,
                                       grpc.StatusCode.INTERNAL)
    assert len(generate(stub, prompt="Hello", max_tokens=1).ids) == 1
