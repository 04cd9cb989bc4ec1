"""--replicas: several engines behind one service give one server's answers, share the work, and are managed as one."""
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from calls import PROMPTS, bits, collect, generate, mixed_requests, pb, request
from conftest import ROOT
from random_adapter import make
from server import ANY_PORT, PATIENCE_S, Server, wait_for

from espalier.v1 import control_pb2 as cb
from espalier.v1 import control_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
LONG = dict(ids=[1000], max_tokens=8000, ignore_eos=True)
QV = ("self_attn.q_proj", "self_attn.v_proj")
LABELS = ["bill", "praise", "other"]
NAMES = ["", "calm", "loud"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    return {"calm": make(root / "calm", seed=31, rank=4, modules=QV, size=0.2),
            "loud": make(root / "loud", seed=32, rank=8, modules=QV, size=0.2),
            "late": make(root / "late", seed=33, rank=8, modules=QV, size=0.5),
            "intents": make(root / "intents", seed=34, rank=4, modules=QV, labels=LABELS)}


@pytest.fixture(scope="module")
def store(tmp_path_factory, folders, espalier):
    path = str(tmp_path_factory.mktemp("store") / "adapters")
    for name in ("late", "intents"):
        espalier("adapter", "import", folders[name], "--name", name, "--store", path)
    return path


@pytest.fixture(scope="module")
def flags(store, folders):
    return ["--threads", 2, "--adapter-store", store, "--http-adapters",
            "--adapter", f"calm={folders['calm']}", "--adapter", f"loud={folders['loud']}"]


@pytest.fixture(scope="module")
def server_flags(flags):
    return [*flags, "--replicas", 2, "--control", ANY_PORT]


@pytest.fixture(scope="module")
def control(server):
    with grpc.insecure_channel(server.control) as channel:
        yield control_pb2_grpc.ControlStub(channel)


def by_replica(server, name):
    """A metric's value of each replica."""
    return [server.metric_of(f'espalier_replica_{name}{{replica="{i}"}}') for i in range(2)]


@pytest.fixture(scope="module", autouse=True)
def read_one_series():
    """server.metric_of("name{labels}"): one series."""

    def metric_of(self, series):
        rows = [line.rsplit(" ", 1)[1] for line in self.get("/metrics").splitlines() if line.startswith(series + " ")]
        assert len(rows) == 1, series
        return float(rows[0])

    Server.metric_of = metric_of
    yield
    del Server.metric_of


def ask_all(server, requests, workers=12):
    with server.channel() as channel, ThreadPoolExecutor(workers) as pool:
        stub = server.stub(channel)
        return list(pool.map(lambda fields: generate(stub, **{k: dict(v) if isinstance(v, dict) else v
                                                              for k, v in fields.items()}), requests))


# ---- answers ----

@pytest.mark.smoke
def test_two_replicas_answer_alike(server):
    """The base and two adapters, nine requests at once, until each replica has answered some."""
    requests = [dict(ids=list(range(30, 50)), max_tokens=8, ignore_eos=True, logprobs=True, model=NAMES[i % 3]) for i in range(9)]
    before, seen = by_replica(server, "requests_total"), set()
    for _ in range(20):
        seen.update((fields["model"], repr(bits(a))) for fields, a in zip(requests, ask_all(server, requests, workers=9)))
        if all(after > was for after, was in zip(by_replica(server, "requests_total"), before)):
            break
    else:
        pytest.fail(f"180 requests went to one replica: {by_replica(server, 'requests_total')}")
    assert len(seen) == len(NAMES)


def test_answers_are_those_of_one_replica_and_the_work_is_shared(server, start_server, flags):
    requests = [dict(fields, model=NAMES[i % 3]) for i, fields in enumerate(mixed_requests(36, seed=8))]
    before = by_replica(server, "requests_total")
    got = ask_all(server, requests)
    taken = [after - was for after, was in zip(by_replica(server, "requests_total"), before)]
    assert sum(taken) == len(requests) and min(taken) > 0, taken
    alone = start_server(*flags, pack="off")
    wanted = ask_all(alone, requests)
    assert alone.stop() == 0
    assert [bits(a) for a in got] == [bits(a) for a in wanted]
    assert {a.final.numeric_profile for a in got} == {a.final.numeric_profile for a in wanted}


def test_the_page_has_sums_and_parts(server):
    ask_all(server, [dict(ids=[5, 6], max_tokens=4, ignore_eos=True)] * 6)
    server.wait_until_empty()
    for name in ("requests_total", "output_tokens_total", "prompt_tokens_total", "steps_total"):
        assert sum(by_replica(server, name)) == server.metric("espalier_" + name)
    assert by_replica(server, "up") == [1, 1]


def test_both_services_of_health_are_serving(server):
    for name in ("", "espalier.v1.Inference", "espalier.v1.Inference/replicas"):
        wait_for(lambda: server.health(name) == SERVING, f"{name} to serve")  # a step that takes long is told, too


def test_each_gets_half_and_a_client_that_leaves_is_cancelled_where_it_runs(server, stub):
    """None of them ends while the others come; one that ended before may still have its place."""
    streams = []
    for _ in range(8):
        streams.append(stub.Generate(request(**LONG), timeout=PATIENCE_S))
        next(streams[-1])
    wait_for(lambda: sum(by_replica(server, "requests_running")) == 8, "all to run")
    assert min(by_replica(server, "requests_running")) >= 3
    for stream in streams:
        stream.cancel()
    server.wait_until_empty()


def test_inputs_of_one_call_are_embedded_by_both(binary, tmp_path):
    model = os.path.join(ROOT, "tests", "vectors", "encoders", "bert.gguf")
    rows = []
    for replicas in (1, 2):
        folder = tmp_path / str(replicas)
        folder.mkdir()
        server = Server(binary, model, ["--replicas", replicas, "--threads", 2], folder, kv_memory="64M")
        try:
            server.wait_until_serving()
            with server.channel() as channel:
                inputs = [pb.EmbedInput(token_ids=pb.TokenIds(ids=[2, 5 + i, 7, 3])) for i in range(16)]
                reply = server.stub(channel).Embed(pb.EmbedRequest(inputs=inputs), timeout=PATIENCE_S)
            rows.append(np.array([e.values for e in reply.embeddings], dtype=np.float32))
            if replicas == 2:
                assert min(by_replica(server, "requests_total")) > 0
            assert server.stop() == 0
        finally:
            server.close()
    assert (rows[0] == rows[1]).all()


# ---- adapters ----

def listed(control, name):
    return list(control.ListAdapters(cb.ListAdaptersRequest(name=name, page_size=100), timeout=PATIENCE_S).adapters)


def load(control, reference):
    stored = iter([cb.LoadAdapterRequest(stored=cb.StoredAdapter(adapter=reference))])
    return control.LoadAdapter(stored, timeout=PATIENCE_S).adapter


def ask_through(server, model, count):
    """The same request so many times at once: more than one replica would rather take alone."""
    return ask_all(server, [dict(prompt=PROMPTS[0], model=model, max_tokens=12, ignore_eos=True)] * count, workers=count)


def test_an_adapter_is_loaded_into_all_listed_once_and_unloaded_from_all(server, stub, control, refused):
    adapter = load(control, "late")
    assert (adapter.name, adapter.version, adapter.state) == ("late", 1, cb.ADAPTER_STATE_READY)
    before = by_replica(server, "requests_total")
    held = [stub.Generate(request(model="late", **LONG), timeout=PATIENCE_S) for _ in range(12)]  # too many for one
    for stream in held:
        next(stream)
    answers = ask_through(server, "late", 40)
    for stream in held:
        stream.cancel()
    server.wait_until_empty()
    assert all(after > was for after, was in zip(by_replica(server, "requests_total"), before))
    assert len({bits(a)[1] for a in answers}) == 1 and {a.final.adapter for a in answers} == {"late@1"}
    assert answers[0].ids != generate(stub, prompt=PROMPTS[0], max_tokens=12, ignore_eos=True).ids
    wait_for(lambda: listed(control, "late")[0].users == 0, "users to end")
    [one] = listed(control, "late")
    assert (one.requests, one.loads) == (52, 2)  # onto the device of each
    assert [m.name for m in stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE_S).models].count("late") == 1
    control.UnloadAdapter(cb.UnloadAdapterRequest(adapter="late"), timeout=PATIENCE_S)
    for _ in range(4):
        refused(lambda: generate(stub, prompt=PROMPTS[0], model="late"), grpc.StatusCode.NOT_FOUND)


def test_an_unload_waits_for_users_of_all(server, stub, control):
    load(control, "late")
    streams = [stub.Generate(request(model="late", **LONG), timeout=PATIENCE_S) for _ in range(40)]
    for stream in streams:
        next(stream)
    wait_for(lambda: min(by_replica(server, "requests_running")) > 0, "users of both")
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(control.UnloadAdapter, cb.UnloadAdapterRequest(adapter="late"), timeout=PATIENCE_S)
        wait_for(lambda: all(a.state == cb.ADAPTER_STATE_LEAVING for a in listed(control, "late")), "LEAVING")
        assert not job.done()
        for stream in streams:
            stream.cancel()
        job.result()
    assert listed(control, "late") == []


def test_a_classifier_of_the_store_answers_from_both(server, stub):
    """So many that one alone would not have them all, however soon it is done with each."""
    count = 150
    inputs = [pb.EmbedInput(text=f"Text number {i % 3}") for i in range(count)]
    before = by_replica(server, "requests_total")
    reply = stub.Classify(pb.ClassifyRequest(model="intents", inputs=inputs), timeout=PATIENCE_S)
    scores = [tuple(r.logits) for r in reply.results]
    assert list(reply.labels) == LABELS and len(set(scores)) == 3
    assert all(scores[i] == scores[i % 3] for i in range(count))
    assert all(after > was for after, was in zip(by_replica(server, "requests_total"), before))


def test_adapters_are_managed_where_ranks_share_a_model(start_server, store, refused):
    server = start_server("--threads", 2, "--tp", 2, "--rank-patience", PATIENCE_S, "--adapter-store", store, "--control", ANY_PORT)
    with grpc.insecure_channel(server.control) as control_channel, server.channel() as channel:
        control, stub = control_pb2_grpc.ControlStub(control_channel), server.stub(channel)
        assert load(control, "late").state == cb.ADAPTER_STATE_READY
        base = generate(stub, prompt=PROMPTS[0], max_tokens=12, ignore_eos=True)
        through = generate(stub, prompt=PROMPTS[0], model="late", max_tokens=12, ignore_eos=True)
        assert through.final.adapter == "late@1" and through.ids != base.ids
        control.UnloadAdapter(cb.UnloadAdapterRequest(adapter="late"), timeout=PATIENCE_S)
        refused(lambda: generate(stub, prompt=PROMPTS[0], model="late"), grpc.StatusCode.NOT_FOUND)
    assert server.stop() == 0


# ---- the record, the end ----

def test_a_record_of_several_replays_on_one(start_server, espalier, model, tmp_path):
    path = tmp_path / "requests.jsonl"
    server = start_server("--replicas", 2, "--threads", 2, "--record", path)
    ask_all(server, mixed_requests(16, seed=12))
    assert server.stop() == 0
    assert "16" in espalier("replay", path, "--model", model, "--threads", 2).stdout


def test_a_drain_waits_for_all(start_server):
    server = start_server("--replicas", 2, "--threads", 2, "--grace", 600)
    with server.channel() as channel:
        stub = server.stub(channel)
        streams = [stub.Generate(request(ids=[1000], max_tokens=400, ignore_eos=True), timeout=PATIENCE_S) for _ in range(6)]
        first = [next(stream) for stream in streams]
        assert min(by_replica(server, "requests_total")) > 0
        server.signal()
        answers = [collect([one, *stream]) for one, stream in zip(first, streams)]
        assert [len(a.ids) for a in answers] == [400] * 6
    assert server.process.wait(timeout=PATIENCE_S) == 0, server.log()


# ---- refusals ----

def test_what_cannot_be_is_refused_in_a_sentence(espalier, model, binary):
    def serve(*arguments, **environment):
        return subprocess.run([binary, "serve", "--model", model, *map(str, arguments)], capture_output=True, text=True,
                              timeout=PATIENCE_S, env={**os.environ, **environment})

    few = serve("--device", "cpu", "--replicas", 3, "--threads", 2)
    assert few.returncode == 64 and "3 ranks, and there are 2" in few.stderr, few.stderr
    mpi = serve("--replicas", 2, OMPI_COMM_WORLD_SIZE="2")
    assert mpi.returncode == 64 and "mpirun" in mpi.stderr, mpi.stderr
    many = serve("--replicas", 65)
    assert many.returncode == 64 and "64" in many.stderr, many.stderr
