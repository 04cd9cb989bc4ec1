"""espalier.v1.Control and its two HTTP routes: adapters come, go and change their meaning under traffic."""
# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from calls import PROMPTS, collect, generate, request
from random_adapter import make, safetensors
from server import ANY_PORT, PATIENCE_S, wait_for

from espalier.v1 import control_pb2 as cb
from espalier.v1 import control_pb2_grpc

CODE = grpc.StatusCode
FILES = ("adapter_config.json", "adapter_model.safetensors")
QV = ("self_attn.q_proj", "self_attn.v_proj")
LONG = 800
"""Tokens of an answer that still runs while a test does something else, and is read to its end."""
HELD = 7000
"""Of one that is ended before."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    return [make(root / f"v{i}", seed=100 + i, rank=4 + 4 * i, modules=QV, size=0.2) for i in range(4)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("store") / "adapters")


@pytest.fixture(scope="module")
def server_flags(store):
    return ["--adapter-store", store, "--control", ANY_PORT, "--http-adapters"]


@pytest.fixture(scope="module")
def control(server):
    with grpc.insecure_channel(server.control) as channel:
        yield control_pb2_grpc.ControlStub(channel)


@pytest.fixture
def nothing_is_left(store):
    """What a test put aside is gone when it ends."""
    yield
    assert leftovers(store) == []


def leftovers(store):
    stage = os.path.join(store, "stage")
    return sorted(os.listdir(stage)) if os.path.isdir(stage) else []


# ---- in few words ----

def files_of(folder, names=FILES):
    out = []
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            out.append((name, file.read()))
    return out


def digest(files):
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files)
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def parts(name, files, declared=None, sizes=None, chunk=100_000, cut=0):
    """The messages of an upload; cut: so many bytes are not sent."""
    sizes = sizes or [len(data) for _, data in files]
    upload = cb.AdapterUpload(name=name, digest=digest(files) if declared is None else declared)
    for (file, _), size in zip(files, sizes):
        upload.files.add(name=file, bytes=size)
    yield cb.LoadAdapterRequest(upload=upload)
    data = b"".join(data for _, data in files)
    data = data[:len(data) - cut]
    for at in range(0, len(data), chunk):
        yield cb.LoadAdapterRequest(chunk=data[at:at + chunk])


def upload(control, name, folder, **how):
    return control.LoadAdapter(parts(name, files_of(folder), **how), timeout=PATIENCE_S).adapter


def stored(reference):
    return iter([cb.LoadAdapterRequest(stored=cb.StoredAdapter(adapter=reference))])


def load(control, reference):
    return control.LoadAdapter(stored(reference), timeout=PATIENCE_S).adapter


def unload(control, reference, users=cb.USERS_WAIT, timeout=PATIENCE_S):
    return control.UnloadAdapter(cb.UnloadAdapterRequest(adapter=reference, users=users), timeout=timeout)


def listed(control, name=""):
    return list(control.ListAdapters(cb.ListAdaptersRequest(name=name, page_size=1000), timeout=PATIENCE_S).adapters)


def answer(stub, model, **fields):
    return generate(stub, model=model, prompt=PROMPTS[0], **fields)


def begin_long(stub, model, max_tokens=LONG):
    """A stream that has given its first token and goes on."""
    stream = stub.Generate(request(prompt=PROMPTS[0], model=model, max_tokens=max_tokens, ignore_eos=True), timeout=600)
    return stream, next(stream)


# ---- coming ----

@pytest.mark.smoke
def test_an_upload_is_stored_and_served(control, stub, folders, store, nothing_is_left):
    adapter = upload(control, "uploaded", folders[0])
    assert (adapter.name, adapter.version, adapter.current) == ("uploaded", 1, True)
    assert adapter.state == cb.ADAPTER_STATE_READY and adapter.tier >= cb.ADAPTER_TIER_HOST
    assert adapter.digest == digest(files_of(folders[0])) and adapter.rank == 4 and adapter.bytes > 0
    final = answer(stub, "uploaded", max_tokens=3).final
    assert (final.adapter, final.adapter_digest) == ("uploaded@1", adapter.digest)
    assert answer(stub, "uploaded").ids != answer(stub, "").ids


@pytest.mark.parametrize("chunk", [1, 4_000_000], ids=["bytes", "whole"])
def test_chunks_may_be_cut_anywhere(control, chunk, tmp_path, nothing_is_left):
    folder = make(tmp_path / "tiny", seed=5, rank=1, modules=("self_attn.v_proj",))
    files = files_of(folder)
    if chunk == 1:  # the first file byte by byte and the second's first thousand, the rest at once
        first = parts("cut", files, chunk=1)
        data = b"".join(data for _, data in files)
        head = [next(first) for _ in range(1 + len(files[0][1]) + 1000)]
        rest = [cb.LoadAdapterRequest(chunk=data[len(files[0][1]) + 1000:][at:at + 1 << 20]) for at in range(0, 1)]
        rest = [cb.LoadAdapterRequest(chunk=data[len(files[0][1]) + 1000:])]
        messages = iter(head + rest)
    else:
        messages = parts("cut", files, chunk=chunk)
    assert control.LoadAdapter(messages, timeout=PATIENCE_S).adapter.digest == digest(files)


def test_the_same_content_again_changes_nothing(control, folders, nothing_is_left):
    first = upload(control, "again", folders[0])
    again = upload(control, "again", folders[0])
    assert (again.version, again.digest) == (first.version, first.digest)
    assert len(listed(control, "again")) == 1


def test_other_content_is_the_next_version_and_old_ones_can_be_named(control, stub, folders):
    versions = [upload(control, "versions", folder).version for folder in folders[:3]]
    assert versions == [1, 2, 3]
    ids = [answer(stub, f"versions@{v}").ids for v in versions]
    assert answer(stub, "versions").ids == ids[2]
    assert len({tuple(i) for i in ids}) == 3
    by_content = "versions@" + digest(files_of(folders[1]))
    assert answer(stub, by_content).ids == ids[1] == answer(stub, by_content[:len("versions@sha256:") + 12]).ids


def test_loading_from_the_store_by_every_kind_of_reference(control, folders):
    upload(control, "stored", folders[0])
    upload(control, "stored", folders[1])
    assert load(control, "stored").version == 2
    assert load(control, "stored@1").version == 1
    assert load(control, "stored@" + digest(files_of(folders[0]))).version == 1


def test_two_uploads_of_one_name_at_once(control, stub, folders, nothing_is_left):
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda folder: upload(control, "racing", folder), folders * 2))
    for folder, adapter in zip(folders * 2, got):
        assert adapter.digest == digest(files_of(folder))
    assert sorted({a.version for a in got}) == [1, 2, 3, 4]
    now = [a for a in listed(control, "racing") if a.current]
    assert len(now) == 1 and answer(stub, "racing", max_tokens=2).final.adapter_digest == now[0].digest


# ---- changing under traffic ----

def test_an_alias_moves_under_traffic(control, stub, folders):
    """Every answer is wholly one version's, and whoever began with one ends with it."""
    upload(control, "moving", folders[0])
    upload(control, "moving", folders[1])
    wanted = {f"moving@{v}": answer(stub, f"moving@{v}", max_tokens=24, ignore_eos=True).ids for v in (1, 2)}
    stop, seen = threading.Event(), []

    def ask():
        while not stop.is_set():
            got = answer(stub, "moving", max_tokens=24, ignore_eos=True)
            assert got.ids == wanted[got.final.adapter]
            seen.append(got.final.adapter)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for turn in range(10):
            version = 1 + turn % 2
            said = control.SetAlias(cb.SetAliasRequest(name="moving", version=version), timeout=PATIENCE_S).adapter
            assert (said.version, said.current) == (version, True)
            before = len(seen)
            wait_for(lambda: len(seen) > before + 6 or any(a.done() for a in asking), "answers")
            assert answer(stub, "moving", max_tokens=1).final.adapter == f"moving@{version}"
        stop.set()
        for task in asking:
            task.result()
    assert set(seen) == set(wanted)


def test_a_new_version_arrives_under_traffic(control, stub, folders):
    upload(control, "renewed", folders[0])
    stream, _ = begin_long(stub, "renewed")
    upload(control, "renewed", folders[1])
    assert answer(stub, "renewed", max_tokens=2).final.adapter == "renewed@2"
    last = None
    for last in stream:
        pass
    assert last.final.adapter == "renewed@1" and last.final.usage.output_tokens == LONG


def test_unload_waits_for_its_users(control, stub, folders, refused):
    upload(control, "waited", folders[0])
    stream, _ = begin_long(stub, "waited")
    call = control.UnloadAdapter.future(cb.UnloadAdapterRequest(adapter="waited"), timeout=600)
    wait_for(lambda: [a.state for a in listed(control, "waited")] == [cb.ADAPTER_STATE_LEAVING], "LEAVING")
    refused(lambda: stub.Generate(request(prompt="a", model="waited"), timeout=PATIENCE_S), CODE.NOT_FOUND, "waited")
    assert not call.done()
    last = None
    for last in stream:
        pass
    assert last.final.usage.output_tokens == LONG
    call.result(timeout=PATIENCE_S)
    assert not listed(control, "waited")
    refused(lambda: stub.Generate(request(prompt="a", model="waited"), timeout=PATIENCE_S), CODE.NOT_FOUND)
    load(control, "waited")
    assert answer(stub, "waited", max_tokens=2).final.adapter == "waited@1"


def test_who_does_not_wait_for_an_unload_leaves_it_going(control, stub, folders):
    upload(control, "left", folders[0])
    stream, _ = begin_long(stub, "left", max_tokens=HELD)
    call = control.UnloadAdapter.future(cb.UnloadAdapterRequest(adapter="left"), timeout=PATIENCE_S)
    wait_for(lambda: [a.state for a in listed(control, "left")] == [cb.ADAPTER_STATE_LEAVING], "LEAVING")
    assert not call.done()
    call.cancel()
    assert call.code() == CODE.CANCELLED
    assert [a.state for a in listed(control, "left")] == [cb.ADAPTER_STATE_LEAVING]
    stream.cancel()
    wait_for(lambda: not listed(control, "left"), "the end of it")


def test_unload_ends_its_users_and_no_others(control, stub, folders):
    upload(control, "ended", folders[0])
    upload(control, "other-one", folders[1])
    mine, _ = begin_long(stub, "ended", max_tokens=HELD)
    others = [begin_long(stub, model)[0] for model in ("other-one", "")]
    unload(control, "ended", users=cb.USERS_END)
    with pytest.raises(grpc.RpcError) as caught:
        list(mine)
    assert caught.value.code() == CODE.ABORTED and "ended" in caught.value.details()
    for stream in others:
        messages = list(stream)
        assert messages[-1].final.usage.output_tokens == LONG


def test_a_version_alone_is_unloaded(control, stub, folders):
    upload(control, "one-of", folders[0])
    upload(control, "one-of", folders[1])
    assert answer(stub, "one-of@1", max_tokens=2).ids
    unload(control, "one-of@1")
    assert [a.version for a in listed(control, "one-of") if a.state != cb.ADAPTER_STATE_LISTED] == [2]
    assert answer(stub, "one-of", max_tokens=2).final.adapter == "one-of@2"


def test_load_and_unload_over_and_over_under_traffic(control, stub, folders, server):
    """Nobody else's requests suffer, and every answer is its adapter's own."""
    wanted = answer(stub, "", max_tokens=16, ignore_eos=True).ids
    upload(control, "cycled", folders[2])
    own = answer(stub, "cycled", max_tokens=16, ignore_eos=True).ids
    stop = threading.Event()

    def ask():
        count = 0
        while not stop.is_set():
            assert answer(stub, "", max_tokens=16, ignore_eos=True).ids == wanted
            count += 1
        return count

    def ask_cycled():
        good = 0
        while not stop.is_set():
            try:
                assert answer(stub, "cycled", max_tokens=16, ignore_eos=True).ids == own
                good += 1
            except grpc.RpcError as error:
                assert error.code() in (CODE.NOT_FOUND, CODE.ABORTED), error
        return good

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask), pool.submit(ask), pool.submit(ask_cycled)]
        for turn in range(30):
            unload(control, "cycled", users=cb.USERS_END if turn % 3 == 0 else cb.USERS_WAIT)
            load(control, "cycled")
        stop.set()
        assert sum(task.result() for task in asking) > 0
    assert answer(stub, "cycled", max_tokens=16, ignore_eos=True).ids == own
    server.wait_until_empty()


# ---- list, pin ----

def test_pages_of_the_list_hold_each_adapter_once(control, folders):
    for i in range(5):
        upload(control, f"paged-{i}", folders[i % 2])
    got, token = [], ""
    while True:
        page = control.ListAdapters(cb.ListAdaptersRequest(page_size=2, page_token=token), timeout=PATIENCE_S)
        assert len(page.adapters) <= 2
        got += [(a.name, a.version) for a in page.adapters]
        token = page.next_page_token
        if not token:
            break
        assert len(page.adapters) == 2
    assert got == sorted(set(got)) and {f"paged-{i}" for i in range(5)} <= {name for name, _ in got}
    assert got == [(a.name, a.version) for a in listed(control)]


def test_one_that_is_leaving_stands_behind_the_one_that_was_loaded_again(control, stub, folders):
    upload(control, "twice", folders[0])
    stream, _ = begin_long(stub, "twice", max_tokens=HELD)
    call = control.UnloadAdapter.future(cb.UnloadAdapterRequest(adapter="twice"), timeout=PATIENCE_S)
    wait_for(lambda: [a.state for a in listed(control, "twice")] == [cb.ADAPTER_STATE_LEAVING], "LEAVING")
    load(control, "twice")
    got, token = [], ""
    while token or not got:
        page = control.ListAdapters(cb.ListAdaptersRequest(name="twice", page_size=1, page_token=token), timeout=PATIENCE_S)
        got += [(a.version, a.state, a.current) for a in page.adapters]
        token = page.next_page_token
    assert got == [(1, cb.ADAPTER_STATE_READY, True), (1, cb.ADAPTER_STATE_LEAVING, False)]
    pinned = control.Pin(cb.PinRequest(adapter="twice@1", pinned=True), timeout=PATIENCE_S).adapter
    assert pinned.state == cb.ADAPTER_STATE_READY and pinned.pinned
    stream.cancel()
    call.result(timeout=PATIENCE_S)
    assert [a.state for a in listed(control, "twice")] == [cb.ADAPTER_STATE_READY]
    unload(control, "twice")


def test_use_is_seen_in_the_list(control, stub, folders):
    upload(control, "used", folders[0])
    assert [(a.requests, a.last_use_unix_us) for a in listed(control, "used")] == [(0, 0)]
    before = time.time()
    answer(stub, "used", max_tokens=2)
    (now,) = listed(control, "used")
    assert now.requests == 1 and before - 5 < now.last_use_unix_us / 1e6 < time.time() + 5
    assert now.tier == cb.ADAPTER_TIER_DEVICE and now.loads >= 1
    stream, _ = begin_long(stub, "used", max_tokens=HELD)
    assert [a.users for a in listed(control, "used")] == [1]
    stream.cancel()
    wait_for(lambda: [a.users for a in listed(control, "used")] == [0], "no users")


def test_a_pinned_one_is_brought_and_shown(control, folders):
    upload(control, "pinned", folders[0])
    assert control.Pin(cb.PinRequest(adapter="pinned", pinned=True), timeout=PATIENCE_S).adapter.pinned
    wait_for(lambda: [a.tier for a in listed(control, "pinned")] == [cb.ADAPTER_TIER_DEVICE], "it on the device")
    assert not control.Pin(cb.PinRequest(adapter="pinned", pinned=False), timeout=PATIENCE_S).adapter.pinned


# ---- what is refused ----

BAD_NAMES = ["", "../x", "a/b", "x" * 300, "Upper", ".hidden", "a..b", "a@1", "a\nb", "ü"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_a_name_that_is_none_is_refused(control, folders, refused, name, nothing_is_left):
    refused(lambda: upload(control, name, folders[0]), CODE.INVALID_ARGUMENT)
    refused(lambda: control.SetAlias(cb.SetAliasRequest(name=name, version=1), timeout=PATIENCE_S), CODE.INVALID_ARGUMENT)
    if "@" not in name:
        for call in (lambda: load(control, name), lambda: unload(control, name),
                     lambda: control.Pin(cb.PinRequest(adapter=name, pinned=True), timeout=PATIENCE_S)):
            refused(call, CODE.INVALID_ARGUMENT)


@pytest.mark.parametrize("reference", ["nobody", "nobody@3", "versions@77", "nobody@sha256:" + "0" * 64])
def test_what_is_not_there_is_not_found(control, refused, reference):
    for call in (lambda: load(control, reference), lambda: unload(control, reference),
                 lambda: control.Pin(cb.PinRequest(adapter=reference, pinned=True), timeout=PATIENCE_S)):
        refused(call, CODE.NOT_FOUND)


@pytest.mark.parametrize("reference", ["a@", "a@0", "a@x", "a@-1", "a@sha256:12", "a@sha256:" + "g" * 64, "a@1@2"])
def test_a_reference_that_is_none_is_refused(control, refused, reference):
    refused(lambda: load(control, reference), CODE.INVALID_ARGUMENT)


def edited(folder, change_config=None, change=None):
    """The folder's two files with another config, or other tensors."""
    (_, config), (_, tensors) = files_of(folder)
    if change_config:
        fields = json.loads(config)
        fields.update(change_config)
        config = json.dumps(fields).encode()
    if change:
        tensors = change(tensors)
    return [(FILES[0], config), (FILES[1], tensors)]


def not_finite(data):
    out = bytearray(data)
    out[-4:] = np.float32(np.nan).tobytes()
    return bytes(out)


def odd_tensors(**more):
    rng = np.random.default_rng(1)
    name = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"
    tensors = {}
    for layer in range(30):
        tensors[name.format(layer, "q_proj", "A")] = rng.standard_normal((4, 576)).astype(np.float32)
        tensors[name.format(layer, "q_proj", "B")] = rng.standard_normal((576, 4)).astype(np.float32)
    for key, value in more.items():
        tensors[key.replace("__", ".")] = value
    return safetensors(tensors)


Q = {"target_modules": ["q_proj"]}
BAD_ADAPTERS = {
    "alpha-nan": lambda f: edited(f, {"lora_alpha": float("nan")}),
    "alpha-0": lambda f: edited(f, {"lora_alpha": 0}),
    "rank-0": lambda f: edited(f, {"r": 0}),
    "rank-other": lambda f: edited(f, {"r": 5}),
    "rank-large": lambda f: edited(f, {"r": 100_000}),
    "unknown-target": lambda f: edited(f, {"target_modules": ["x_proj"]}),
    "target-missing": lambda f: edited(f, Q),
    "not-finite": lambda f: edited(f, change=not_finite),
    "half-a-file": lambda f: edited(f, change=lambda data: data[:len(data) // 2]),
    "no-json": lambda f: [(FILES[0], b"{"), files_of(f)[1]],
    "empty-config": lambda f: [(FILES[0], b"{}"), files_of(f)[1]],
    "wrong-shape": lambda f: edited(f, Q, lambda _: odd_tensors(
        base_model__model__model__layers__0__self_attn__q_proj__lora_B__weight=np.zeros((577, 4), np.float32))),
    "unconsumed": lambda f: edited(f, Q, lambda _: odd_tensors(base_model__model__surplus=np.zeros((4, 4), np.float32))),
    "other-base": lambda f: edited(f, Q, lambda _: odd_tensors(
        base_model__model__model__layers__30__self_attn__q_proj__lora_A__weight=np.zeros((4, 576), np.float32))),
    "not-lora": lambda f: edited(f, {"peft_type": "PREFIX_TUNING"}),
}


@pytest.mark.parametrize("kind", BAD_ADAPTERS)
def test_a_bad_adapter_is_refused_and_the_old_version_serves_on(control, stub, folders, refused, kind, nothing_is_left):
    upload(control, "sound", folders[0])
    wanted = answer(stub, "sound").ids
    files = BAD_ADAPTERS[kind](folders[0])
    refused(lambda: control.LoadAdapter(parts("sound", files), timeout=PATIENCE_S), CODE.INVALID_ARGUMENT)
    got = answer(stub, "sound")
    assert got.ids == wanted and got.final.adapter == "sound@1"
    assert load(control, "sound").version == 1
    refused(lambda: control.LoadAdapter(parts("fresh-" + kind, files), timeout=PATIENCE_S), CODE.INVALID_ARGUMENT)
    refused(lambda: load(control, "fresh-" + kind), CODE.NOT_FOUND)


def test_a_digest_that_is_not_the_content_s_is_refused(control, folders, refused, nothing_is_left):
    files = files_of(folders[0])
    for declared in ("sha256:" + "0" * 64, digest(files_of(folders[1]))):
        refused(lambda d=declared: control.LoadAdapter(parts("wrong", files, declared=d), timeout=PATIENCE_S),
                CODE.INVALID_ARGUMENT, "sha256:")
    for declared in ("", "sha256:", "md5:" + "0" * 64, "0" * 64, "sha256:" + "0" * 640):
        refused(lambda d=declared: control.LoadAdapter(parts("wrong", files, declared=d), timeout=PATIENCE_S),
                CODE.INVALID_ARGUMENT)
    refused(lambda: load(control, "wrong"), CODE.NOT_FOUND)


@pytest.mark.parametrize("cut", [1, 10_000])
def test_half_an_upload_leaves_nothing(control, folders, refused, cut, nothing_is_left):
    files = files_of(folders[0])
    refused(lambda: control.LoadAdapter(parts("half", files, cut=cut), timeout=PATIENCE_S), CODE.INVALID_ARGUMENT, str(cut))
    refused(lambda: load(control, "half"), CODE.NOT_FOUND)


def test_more_bytes_than_declared_are_refused(control, folders, refused, nothing_is_left):
    files = files_of(folders[0])
    sizes = [len(files[0][1]), len(files[1][1]) - 7]
    refused(lambda: control.LoadAdapter(parts("more", files, sizes=sizes), timeout=PATIENCE_S), CODE.INVALID_ARGUMENT, "7 bytes")


def test_who_leaves_in_the_middle_of_an_upload_leaves_nothing(control, folders, store, refused):
    files = files_of(folders[0])
    goes_on = threading.Event()

    def messages():
        all_of_them = list(parts("abandoned", files))
        yield from all_of_them[:3]
        goes_on.wait(PATIENCE_S)

    call = control.LoadAdapter.future(messages(), timeout=PATIENCE_S)
    wait_for(lambda: leftovers(store), "a stage")
    call.cancel()
    goes_on.set()
    wait_for(lambda: not leftovers(store), "no stage")
    refused(lambda: load(control, "abandoned"), CODE.NOT_FOUND)


FIRST = {
    "nothing": [],
    "empty": [cb.LoadAdapterRequest()],
    "chunk": [cb.LoadAdapterRequest(chunk=b"x")],
    "no-files": [cb.LoadAdapterRequest(upload=cb.AdapterUpload(name="a", digest="sha256:" + "0" * 64))],
    "other-file": [cb.LoadAdapterRequest(upload=cb.AdapterUpload(name="a", digest="sha256:" + "0" * 64, files=[
        cb.UploadFile(name="../../x", bytes=3)]))],
    "long-file-name": [cb.LoadAdapterRequest(upload=cb.AdapterUpload(name="a", digest="sha256:" + "0" * 64, files=[
        cb.UploadFile(name="x" * 400, bytes=3)]))],
    "same-file-twice": [cb.LoadAdapterRequest(upload=cb.AdapterUpload(name="a", digest="sha256:" + "0" * 64, files=[
        cb.UploadFile(name=FILES[0], bytes=1), cb.UploadFile(name=FILES[0], bytes=1)])), cb.LoadAdapterRequest(chunk=b"xy")],
    "config-alone": [cb.LoadAdapterRequest(upload=cb.AdapterUpload(name="a", digest="sha256:" + "0" * 64, files=[
        cb.UploadFile(name=FILES[0], bytes=2)])), cb.LoadAdapterRequest(chunk=b"{}")],
    "three-files": [cb.LoadAdapterRequest(upload=cb.AdapterUpload(name="a", digest="sha256:" + "0" * 64, files=[
        cb.UploadFile(name=name, bytes=1) for name in FILES + ("adapter.gguf",)]))],
    "upload-twice": [cb.LoadAdapterRequest(upload=cb.AdapterUpload(name="a", digest="sha256:" + "0" * 64, files=[
        cb.UploadFile(name=FILES[0], bytes=9), cb.UploadFile(name=FILES[1], bytes=9)]))] * 2,
}


@pytest.mark.parametrize("kind", FIRST)
def test_an_upload_out_of_order_is_refused(control, refused, kind, nothing_is_left):
    refused(lambda: control.LoadAdapter(iter(FIRST[kind]), timeout=PATIENCE_S), CODE.INVALID_ARGUMENT)


@pytest.mark.parametrize("size", [1 << 62, (1 << 64) - 1])
def test_an_upload_larger_than_the_disk_is_refused_at_once(control, refused, size, nothing_is_left):
    first = cb.LoadAdapterRequest(upload=cb.AdapterUpload(name="large", digest="sha256:" + "0" * 64, files=[
        cb.UploadFile(name=FILES[0], bytes=2), cb.UploadFile(name=FILES[1], bytes=size)]))
    with pytest.raises(grpc.RpcError) as caught:
        control.LoadAdapter(iter([first, cb.LoadAdapterRequest(chunk=b"{}")]), timeout=PATIENCE_S)
    assert caught.value.code() in (CODE.INVALID_ARGUMENT, CODE.RESOURCE_EXHAUSTED)


def test_pages_that_are_none_are_refused(control, refused):
    for bad in (dict(page_size=1001), dict(page_token="x"), dict(page_token="x@"), dict(page_token="x@y"),
                dict(page_token="x" * 300 + "@1.1"), dict(page_token="x@99999999999.1"), dict(page_token="x@1"),
                dict(page_token="x@1."), dict(page_token="x@1.0"), dict(page_token="x@1.1.1"), dict(page_token="@1.1"),
                dict(page_token="x@+5.1"), dict(page_token="x@5. 1"), dict(page_token="x@-5.1")):
        refused(lambda b=bad: control.ListAdapters(cb.ListAdaptersRequest(**b), timeout=PATIENCE_S), CODE.INVALID_ARGUMENT)


def test_a_version_that_is_not_there_gets_no_alias(control, stub, folders, refused):
    upload(control, "sound", folders[0])
    for version in (0, 9, 2**32 - 1):
        with pytest.raises(grpc.RpcError) as caught:
            control.SetAlias(cb.SetAliasRequest(name="sound", version=version), timeout=PATIENCE_S)
        assert caught.value.code() in (CODE.NOT_FOUND, CODE.INVALID_ARGUMENT)
    assert answer(stub, "sound", max_tokens=2).final.adapter == "sound@1"
    refused(lambda: control.UnloadAdapter(cb.UnloadAdapterRequest(adapter="sound", users=7), timeout=PATIENCE_S),
            CODE.INVALID_ARGUMENT, "users")


# ---- two listeners ----

def test_neither_listener_knows_the_other_s_methods(server, refused):
    with server.channel() as clients, grpc.insecure_channel(server.control) as managers:
        refused(lambda: control_pb2_grpc.ControlStub(clients).ListAdapters(cb.ListAdaptersRequest(), timeout=PATIENCE_S),
                CODE.UNIMPLEMENTED)
        refused(lambda: server.stub(managers).Generate(request(prompt="a"), timeout=PATIENCE_S), CODE.UNIMPLEMENTED)


def test_reflection_shows_each_listener_s_own(server):
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    for at, has, lacks in ((server.address, "espalier.v1.Inference", "espalier.v1.Control"),
                           (server.control, "espalier.v1.Control", "espalier.v1.Inference")):
        with grpc.insecure_channel(at) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = database.get_services()
            assert has in services and lacks not in services
            assert DescriptorPool(database).FindServiceByName(has)
            with pytest.raises(KeyError):
                DescriptorPool(database).FindServiceByName(lacks)


def test_managers_have_tokens_of_their_own(start_server, tmp_path, refused, espalier, model):
    (tmp_path / "clients").write_text("client\n")
    (tmp_path / "managers").write_text("manager\n")
    for flags, word in ((["--token-file", tmp_path / "clients", "--control", ANY_PORT], "--control-token-file"),
                        (["--control-token-file", tmp_path / "managers"], "--control"),
                        (["--http-adapters", "--http", "off"], "--http-adapters"),
                        (["--control", "0.0.0.0:0"], "--insecure"), (["--control", "nowhere"], "--control")):
        assert word in espalier("serve", "--model", model, *flags, code=64).stderr
    server = start_server("--token-file", tmp_path / "clients", "--control", ANY_PORT, "--control-token-file",
                          tmp_path / "managers", "--http-adapters", "--adapter-store", tmp_path / "store")
    with grpc.insecure_channel(server.control) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        for token in (None, "client", "manager2", ""):
            metadata = [("authorization", f"Bearer {token}")] if token is not None else []
            refused(lambda m=metadata: stub.ListAdapters(cb.ListAdaptersRequest(), metadata=m, timeout=PATIENCE_S),
                    CODE.UNAUTHENTICATED)
        assert not stub.ListAdapters(cb.ListAdaptersRequest(), metadata=[("authorization", "Bearer manager")], timeout=PATIENCE_S).adapters
    assert post(server, "/v1/unload_lora_adapter", {"lora_name": "a"})[0] == 401
    assert post(server, "/v1/unload_lora_adapter", {"lora_name": "a"}, token="client")[0] == 401
    assert post(server, "/v1/unload_lora_adapter", {"lora_name": "a"}, token="manager")[0] == 404
    assert server.stop() == 0


def test_a_server_without_a_store_says_so(start_server, folders, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # where nothing was imported
    server = start_server("--control", ANY_PORT, f"--adapter=own={folders[0]}")
    with grpc.insecure_channel(server.control) as channel, server.channel() as clients:
        stub = control_pb2_grpc.ControlStub(channel)
        refused(lambda: upload(stub, "a", folders[0]), CODE.FAILED_PRECONDITION, "--adapter-store")
        refused(lambda: load(stub, "a"), CODE.FAILED_PRECONDITION, "--adapter-store")
        assert [(a.name, a.state) for a in listed(stub)] == [("own", cb.ADAPTER_STATE_READY)]
        unload(stub, "own")
        refused(lambda: server.stub(clients).Generate(request(prompt="a", model="own"), timeout=PATIENCE_S), CODE.NOT_FOUND)
    assert server.stop() == 0
    assert not os.listdir(tmp_path)


# ---- the HTTP routes ----

def post(server, path, body, token=None, content_type="application/json"):
    """(status, text)"""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": content_type} | ({"Authorization": f"Bearer {token}"} if token else {})
    ask = urllib.request.Request(f"http://{server.http}{path}", data=data, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(ask, timeout=PATIENCE_S) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.mark.smoke
def test_tools_load_and_unload_over_http(control, server, stub, folders, refused):
    upload(control, "routed", folders[1])
    wanted = answer(stub, "routed").ids
    unload(control, "routed")
    assert post(server, LOAD, {"lora_name": "routed", "lora_path": "routed"}) == (
        200, "Success: LoRA adapter 'routed' added successfully.")
    assert answer(stub, "routed").ids == wanted
    status, text = post(server, LOAD, {"lora_name": "routed", "lora_path": "routed@1"})
    assert status == 400 and "already" in json.loads(text)["error"]["message"]
    assert post(server, LOAD, {"lora_name": "routed", "lora_path": "routed@1", "load_inplace": True})[0] == 200
    assert post(server, UNLOAD, {"lora_name": "routed"}) == (
        200, "Success: LoRA adapter 'routed' removed successfully.")
    refused(lambda: stub.Generate(request(prompt="a", model="routed"), timeout=PATIENCE_S), CODE.NOT_FOUND)
    status, text = post(server, UNLOAD, {"lora_name": "routed"})
    error = json.loads(text)["error"]
    assert (status, error["code"], error["type"]) == (404, 404, "NotFoundError")


def test_http_loads_under_another_name(control, server, stub, folders):
    upload(control, "original", folders[2])
    assert post(server, LOAD, {"lora_name": "borrowed", "lora_path": "original@1", "lora_int_id": 3})[0] == 200
    assert answer(stub, "borrowed").ids == answer(stub, "original").ids
    assert post(server, UNLOAD, {"lora_name": "borrowed"})[0] == 200
    assert answer(stub, "original", max_tokens=2).final.adapter == "original@1"


def test_an_http_load_holds_its_blob_no_longer_than_it_is_served(control, server, stub, store, espalier, tmp_path):
    """Removed from the store meanwhile, the files stay until the adapter is unloaded, and then go."""
    info = upload(control, "lent", make(tmp_path / "lent", seed=900, rank=4, modules=QV, size=0.2))
    wanted = answer(stub, "lent").ids
    assert post(server, LOAD, {"lora_name": "borrowed", "lora_path": "lent"})[0] == 200
    unload(control, "lent")
    blob = os.path.join(store, "blobs", "sha256", info.digest.split(":")[1])
    espalier("adapter", "remove", "lent", "--store", store)
    assert os.path.isdir(blob)
    assert answer(stub, "borrowed").ids == wanted
    unload(control, "borrowed")

    def swept():
        espalier("adapter", "list", "--store", store)
        return not os.path.exists(blob)

    wait_for(swept, "the blob to go")


@pytest.mark.parametrize("path,body,status", [
    (LOAD, {"lora_name": "x", "lora_path": "nobody"}, 404),
    (LOAD, {"lora_name": "x", "lora_path": "/etc/passwd"}, 400),
    (LOAD, {"lora_name": "x", "lora_path": "../adapters"}, 400),
    (LOAD, {"lora_name": "../x", "lora_path": "sound"}, 400),
    (LOAD, {"lora_name": "x" * 300, "lora_path": "sound"}, 400),
    (LOAD, {"lora_name": "a\u0000b", "lora_path": "sound"}, 400),
    (LOAD, {"lora_name": "x"}, 400),
    (LOAD, {"lora_path": "sound"}, 400),
    (LOAD, {"lora_name": 3, "lora_path": ["sound"]}, 400),
    (LOAD, b"", 400), (LOAD, b"{", 400), (LOAD, b"[]", 400), (LOAD, b"\xff\xfe", 400),
    (LOAD, b'{"lora_name":"a","lora_name":"b","lora_path":"c"}', 400),
    (LOAD, b"[" * 60_000, 400),
    (LOAD, b" " * 70_000, 413),
    (UNLOAD, {"lora_name": "nobody"}, 404),
    (UNLOAD, {"lora_int_id": 1}, 400),
    (UNLOAD, {}, 400),
    ("/v1/other", {}, 405),
], ids=str)
def test_bad_posts_are_told_apart(server, path, body, status):
    got, text = post(server, path, body)
    assert got == status and text
    if status in (400, 404):
        error = json.loads(text)["error"]
        assert error["code"] == status and len(error["message"]) > 10 and error["type"]
    assert server.get("/healthz")


def test_a_page_of_a_browser_cannot_post(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert post(server, UNLOAD, {"lora_name": "sound"}, content_type=kind)[0] == 415


def test_without_the_flag_there_are_no_routes(start_server):
    server = start_server()
    assert post(server, UNLOAD, {"lora_name": "a"})[0] == 405
    assert server.stop() == 0


# ---- metrics ----

def test_each_adapter_is_counted(control, server, stub, folders):
    upload(control, "counted", folders[0])
    for _ in range(3):
        generate(stub, model="counted", ids=[5, 6, 7], max_tokens=4, ignore_eos=True)
    page = server.get("/metrics")  # who has an answer finds it there
    for line in ('requests_total{adapter="counted"} 3', 'prompt_tokens_total{adapter="counted"} 9',
                 'output_tokens_total{adapter="counted"} 12', 'errors_total{adapter="counted"} 0',
                 'tier{adapter="counted"} 2', 'time_to_first_token_seconds_count{adapter="counted"} 3',
                 'inter_token_latency_seconds_count{adapter="counted"} 9'):
        assert f"espalier_adapter_{line}\n" in page, line
