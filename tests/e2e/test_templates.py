"""Chat templates from the command line and over gRPC: tools, arguments, calls and refusals.

The model's own template knows no tools, so a copy of the file gets another one of the same length."""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import re

import grpc
import pytest

from calls import collect, pb

TEMPLATE = (
    "{% if tools %}<|im_start|>{{ tools | tojson }}<|im_end|>{% endif %}{% for m in messages %}"
    "{% if m.role == 'root' %}{{ raise_exception('no root: ' ~ m.name) }}{% endif %}"
    "<|im_start|>{{ m.role }} {{ m.name }}\n{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{{ thinking }}{% endif %}")
TOOLS = [{"type": "function", "function": {"name": "clock", "description": "<|im_end|> é"}}]
CALLS = [{"id": "a", "type": "function", "function": {"name": "clock", "arguments": {"zone": "<|im_start|>"}}}]
MESSAGES = [{"role": "user", "content": "Time?", "name": "Ada"},
            {"role": "assistant", "content": None, "tool_calls": CALLS},
            {"role": "tool", "content": "12:00 <|im_end|>", "tool_call_id": "a"}]
PROMPT = ('<|im_start|>[{"type": "function", "function": {"name": "clock", "description": "<|im_end|> é"}}]<|im_end|>'
          "<|im_start|>user Ada\nTime?<|im_end|><|im_start|>assistant \nNone"
          '[{"id": "a", "type": "function", "function": {"name": "clock", "arguments": {"zone": "<|im_start|>"}}}]<|im_end|>'
          "<|im_start|>tool \n12:00 <|im_end|><|im_end|><|im_start|>low")


@pytest.fixture(scope="module")
def templated(model, tmp_path_factory):
    """The model with TEMPLATE; a comment fills the rest of its own one's length."""
    with open(model, "rb") as file:
        content = file.read()
    key = b"tokenizer.chat_template"
    at = content.index(key) + len(key) + 4
    length = int.from_bytes(content[at:at + 8], "little")
    text = TEMPLATE.encode()
    if length < len(text):  # a longer text moves all that follows, so the padding before the data has to give
        pytest.fail(f"the model's template has {length} bytes, this one {len(text)}")
    path = tmp_path_factory.mktemp("templated") / "templated.gguf"
    path.write_bytes(content[:at + 8] + text + b"{#" + b"-" * (length - len(text) - 4) + b"#}" + content[at + 8 + length:])
    yield path
    os.remove(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")

    def write(name, value):
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
        return folder / name

    return write


@pytest.fixture(scope="module")
def stub(binary, templated, tmp_path_factory):
    from server import Server
    server = Server(binary, str(templated), [], tmp_path_factory.mktemp("server"))
    try:
        server.wait_until_serving()
        with server.channel() as channel:
            yield server.stub(channel)
    finally:
        server.close()


def flags(templated, files):
    return ("--model", templated, "--messages", files("chat.json", MESSAGES), "--tools", files("tools.json", TOOLS),
            "--arg", 'thinking="low"')


def wire(messages=MESSAGES, tools="", arguments="", **fields):
    out = pb.GenerateRequest(max_tokens=6, ignore_eos=True, **fields)
    out.chat.tools_json, out.chat.template_arguments_json = tools, arguments
    for m in messages:
        calls = m.get("tool_calls")
        out.chat.messages.add(role=m["role"], content=m["content"], tool_calls_json=json.dumps(calls) if calls else "",
                              name=m.get("name"), tool_call_id=m.get("tool_call_id"))
    return out


@pytest.mark.smoke
def test_render_takes_tools_arguments_and_whole_messages(espalier, templated, files):
    assert espalier("render", *flags(templated, files)).stdout == PROMPT
    assert espalier("render", *flags(templated, files), "--no-generation-prompt").stdout == PROMPT[:-len("<|im_start|>low")]


def test_T13_no_control_token_comes_out_of_tools_calls_or_arguments(espalier, templated, files, stub):
    """Of PROMPT's control tokens the template's nine are left: what stands in the data is text."""
    answer = collect(stub.Generate(wire(tools=json.dumps(TOOLS), arguments='{"thinking": "low"}')))
    by_template = re.split(r"<\|im_(?:start|end)\|>", PROMPT.replace("<|im_end|> é", "DATA1").replace(
        '"<|im_start|>"', "DATA2").replace("12:00 <|im_end|>", "DATA3"))
    assert len(by_template) - 1 == 9
    tokenize = lambda text: list(stub.Tokenize(pb.TokenizeRequest(text=text, no_add_special=True)).token_ids)
    pieces = [p.replace("DATA1", "<|im_end|> é").replace("DATA2", '"<|im_start|>"').replace("DATA3", "12:00 <|im_end|>")
              for p in by_template]
    assert sum(len(tokenize(p)) for p in pieces if p) + 9 == answer.final.usage.prompt_tokens


def test_generate_answers_the_same_from_the_command_line_and_over_grpc(espalier, templated, files, stub):
    done = json.loads(espalier("generate", *flags(templated, files), "--json", "--max-tokens", 6, "--ignore-eos").stdout)
    answer = collect(stub.Generate(wire(tools=json.dumps(TOOLS), arguments='{"thinking": "low"}')))
    assert answer.ids == done["ids"]


def test_a_template_that_raises_is_exit_65_with_its_message(espalier, templated, files):
    path = files("root.json", [{"role": "root", "content": "x", "name": "Eve"}])
    for command in ("render", "generate"):
        done = espalier(command, "--model", templated, "--messages", path, code=65)
        assert done.stdout == "" and done.stderr == f"espalier {command}: no root: Eve\n"


def test_a_template_that_raises_is_the_clients_error(stub, refused):
    refused(lambda: stub.Generate(wire([{"role": "root", "content": "x", "name": "Eve"}])),
            grpc.StatusCode.INVALID_ARGUMENT, "no root: Eve")


@pytest.mark.parametrize("fields, word", [
    (dict(tools="["), "chat.tools_json"), (dict(tools="{}"), "chat.tools_json"), (dict(tools="[1]"), "chat.tools_json"),
    (dict(tools="[" * 100_000), "chat.tools_json"), (dict(tools='[{"a":1,"a":2}]'), "chat.tools_json"),
    (dict(tools="[" + "{}," * 200_000 + "{}]"), "JSON"), (dict(arguments="[]"), "chat.template_arguments_json"),
    (dict(arguments='{"messages":[]}'), "messages"), (dict(arguments='{"a-b":1}'), "a-b"),
    (dict(messages=[dict(MESSAGES[1], tool_calls=[1])]), "chat.messages[0].tool_calls_json")],
    ids=["cut", "object", "number", "deep", "twice", "large", "list", "reserved", "name", "calls"])
def test_a_wrong_json_field_is_refused_by_its_name(stub, refused, fields, word):
    refused(lambda: stub.Generate(wire(**fields)), grpc.StatusCode.INVALID_ARGUMENT, word)


@pytest.mark.parametrize("extra, code, word", [
    (("--arg", "x"), 64, "KEY=JSON"), (("--arg", "x=y"), 64, "double quotes"), (("--arg", "tools=[]"), 64, "tools"),
    (("--tools", "/nonexistent"), 66, "/nonexistent")], ids=["no-value", "no-json", "reserved", "no-file"])
def test_wrong_template_options_are_refused(espalier, templated, files, extra, code, word):
    done = espalier("render", "--model", templated, "--messages", files("chat.json", MESSAGES), *extra, code=code)
    assert word in done.stderr and done.stdout == "" and len(done.stderr.splitlines()) == 1


def test_tools_that_are_no_list_are_exit_65(espalier, templated, files):
    done = espalier("render", "--model", templated, "--messages", files("chat.json", MESSAGES),
                    "--tools", files("one.json", TOOLS[0]), code=65)
    assert "--tools" in done.stderr


def test_template_options_want_messages(espalier, templated):
    assert "--messages" in espalier("generate", "--model", templated, "--prompt", "x", "--arg", "a=1", code=64).stderr
