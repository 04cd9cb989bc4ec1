"""Many at once: Law 1 over the wire, 256 streams, clients that leave, deadlines, slow readers, a full queue."""
# SPDX-License-Identifier: Apache-2.0
import random
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from calls import bits, collect, generate, mixed_requests, pb, request
from server import PATIENCE_S, wait_for

LONG = dict(ids=[1000], max_tokens=8000, ignore_eos=True)
"""A request that takes longer than any test waits, unless something ends it."""


def all_at_once(server, requests, channels=8):
    """Each request from its own thread, over a few connections; answers in order."""
    opened = [server.channel() for _ in range(channels)]
    stubs = [server.stub(c) for c in opened]
    with ThreadPoolExecutor(len(requests)) as pool:
        jobs = [pool.submit(generate, stubs[i % channels], **_copy(fields)) for i, fields in enumerate(requests)]
        answers = [job.result() for job in jobs]
    for channel in opened:
        channel.close()
    return answers


def _copy(fields):
    return {k: dict(v) if isinstance(v, dict) else v for k, v in fields.items()}


@pytest.fixture(scope="module")
def alone(stub):
    """64 mixed requests, each answered while nothing else runs."""
    requests = mixed_requests(64)
    return requests, [bits(generate(stub, **_copy(fields))) for fields in requests]


def differing(answers, wanted):
    return [i for i, (answer, bits_wanted) in enumerate(zip(answers, wanted, strict=True))
            if bits(answer) != bits_wanted]


def test_law_1_all_at_once_is_bit_identical_to_one_by_one(server, alone):
    requests, wanted = alone
    assert differing(all_at_once(server, requests), wanted) == []


@pytest.mark.parametrize("flags", [("--threads", 2), ("--step-tokens", 48), ("--max-seqs", 3)],
                         ids=lambda f: "=".join(map(str, f)).lstrip("-"))
def test_law_1_threads_chunks_and_slots_change_no_bit(start_server, alone, flags):
    requests, wanted = alone
    other = start_server(*flags, pack="off")  # packed by its own threads, too
    assert differing(all_at_once(other, requests), wanted) == []
    assert other.stop() == 0


def test_law_1_preemption_changes_no_bit(start_server, alone):
    """Pages for a few sequences only: the newest give theirs up and are computed again. Two that grow to more than
    there is make that certain however slowly the rest comes in, if each begins while the other runs: they are
    begun again until that was so."""
    requests, wanted = alone
    growing = [dict(ids=[1000 + i], max_tokens=400, ignore_eos=True, logprobs=True) for i in range(2)]
    small = start_server("--max-context", 512, kv_memory="14M")
    with small.channel() as channel:
        stub = small.stub(channel)
        wanted_of_growing = [bits(generate(stub, **_copy(fields))) for fields in growing]
        assert small.metric("espalier_preemptions_total") == 0
        for _ in range(20):
            calls = [stub.Generate(request(**_copy(fields)), timeout=PATIENCE_S) for fields in growing]
            firsts = [next(call) for call in calls]
            with ThreadPoolExecutor(len(calls)) as pool:
                rest = [pool.submit(list, call) for call in calls]
                assert differing(all_at_once(small, requests), wanted) == []
                grown = [collect([first, *job.result()]) for first, job in zip(firsts, rest, strict=True)]
            assert differing(grown, wanted_of_growing) == []
            if small.metric("espalier_preemptions_total") > 0:
                break
    assert small.metric("espalier_preemptions_total") > 0
    small.wait_until_empty()
    assert small.stop() == 0


def test_256_concurrent_streams_finish(server):
    requests = [dict(ids=[500 + i, 7, 9], max_tokens=12, ignore_eos=True) for i in range(256)]
    answers = all_at_once(server, requests, channels=16)
    assert all(len(a.ids) == 12 for a in answers)
    server.wait_until_empty()


def cancel_at_random(server, count, workers, seed=5):
    """Clients that read 0 to 6 messages and leave; some leave before they have read anything."""
    opened = [server.channel() for _ in range(8)]
    stubs = [server.stub(c) for c in opened]

    def one(i):
        rng = random.Random(seed * count + i)
        fields = dict(ids=[rng.randrange(20, 49000) for _ in range(rng.randrange(1, 60))], max_tokens=200,
                      ignore_eos=True)
        call = stubs[i % 8].Generate(request(**fields), timeout=PATIENCE_S)
        try:
            for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 6])):
                next(call)
        except (grpc.RpcError, StopIteration) as error:
            assert not isinstance(error, grpc.RpcError) or error.code() == grpc.StatusCode.CANCELLED, error
        call.cancel()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, range(count)))
    for channel in opened:
        channel.close()


def test_T27_1000_clients_that_leave_at_random_leave_nothing_behind(server, stub):
    fields = dict(ids=[300, 301, 302], max_tokens=24, ignore_eos=True, logprobs=True)
    quiet = bits(generate(stub, **fields))
    with ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(lambda: [bits(generate(stub, **fields)) for _ in range(5)])
        cancel_at_random(server, 1000, workers=64)
        assert all(answer == quiet for answer in meanwhile.result())
    server.wait_until_empty()
    assert bits(generate(stub, **fields)) == quiet


@pytest.mark.smoke
def test_a_few_streams_and_cancels_end_cleanly(server):
    requests = [dict(ids=[500 + i, 7], max_tokens=4, ignore_eos=True, logprobs=True) for i in range(6)]
    assert all(len(a.ids) == 4 for a in all_at_once(server, requests, channels=2))
    cancel_at_random(server, 8, workers=4)
    server.wait_until_empty()


@pytest.fixture
def ends_early(server):
    """What the test began is not there any more, and was not worked off either."""
    before = server.metric("espalier_output_tokens_total")
    yield
    server.wait_until_empty()
    assert server.metric("espalier_output_tokens_total") - before < LONG["max_tokens"]


def test_a_cancelled_stream_frees_its_place(server, stub, ends_early):
    call = stub.Generate(request(**LONG), timeout=PATIENCE_S)
    next(call)
    wait_for(lambda: server.metric("espalier_requests_running") == 1, "it to run")
    call.cancel()


def test_a_vanished_connection_frees_its_place(server, ends_early):
    channel = server.channel()
    call = server.stub(channel).Generate(request(**LONG), timeout=PATIENCE_S)
    next(call)
    channel.close()


def test_a_deadline_ends_the_call_and_frees_its_place(server, stub, ends_early):
    for timeout in (0.3, 0.001):
        refused_call = stub.Generate(request(**LONG), timeout=timeout)
        with pytest.raises(grpc.RpcError) as caught:
            list(refused_call)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_reader_that_stops_is_cut_and_others_go_on(start_server):
    """Large messages (20 alternatives a token) fill the client's window; what stays unsent has a cap."""
    server = start_server("--slow-reader-bytes", 16384)
    with server.channel(("grpc.http2.bdp_probe", 0)) as channel, server.channel() as other:
        fields = dict(ids=[1000], max_tokens=4000, ignore_eos=True, top_logprobs=20)
        call = server.stub(channel).Generate(request(**fields), timeout=PATIENCE_S)
        next(call)
        assert len(generate(server.stub(other), ids=[1, 2, 3], max_tokens=8, ignore_eos=True).ids) == 8
        server.wait_until_empty()
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "read" in caught.value.details()
    assert server.stop() == 0


def retry_info(error):
    from google.rpc import error_details_pb2, status_pb2
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                if detail.type_url.endswith("google.rpc.RetryInfo"):
                    return error_details_pb2.RetryInfo.FromString(detail.value)
    return None


def test_a_full_queue_refuses_at_once_with_a_hint(start_server):
    server = start_server("--max-seqs", 1, "--max-waiting", 2)
    with server.channel() as channel:
        stub = server.stub(channel)
        calls = [stub.Generate(request(**LONG), timeout=PATIENCE_S)]
        next(calls[0])
        calls += [stub.Generate(request(**LONG), timeout=PATIENCE_S) for _ in range(12)]
        # Two may wait, and one more may be on its way into the slot; all others end at once.
        wait_for(lambda: sum(c.done() for c in calls) >= 9, "refusals")
        for call in filter(lambda c: c.done(), calls):
            assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, call.details()
            hint = retry_info(call)
            assert hint and (hint.retry_delay.seconds or hint.retry_delay.nanos)
        for call in calls:
            call.cancel()
        server.wait_until_empty()
        assert len(generate(stub, ids=[5], max_tokens=2, ignore_eos=True).ids) == 2
    assert server.stop() == 0


def test_what_can_never_fit_is_refused_at_once(start_server, refused):
    server = start_server("--max-context", 4096, kv_memory="14M")
    with server.channel() as channel:
        call = lambda: server.stub(channel).Generate(request(ids=[5] * 100, max_tokens=3900), timeout=PATIENCE_S)
        with pytest.raises(grpc.RpcError) as caught:
            list(call())
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert "--kv-memory" in caught.value.details() or "max_tokens" in caught.value.details()
    assert server.stop() == 0


def test_higher_priority_leaves_the_queue_first(start_server):
    server = start_server("--max-seqs", 1)
    with server.channel() as channel:
        stub = server.stub(channel)
        first = stub.Generate(request(**LONG), timeout=PATIENCE_S)
        next(first)
        waiting = lambda: server.metric("espalier_requests_waiting")
        low = stub.Generate(request(ids=[9], max_tokens=4, ignore_eos=True, priority=-5), timeout=PATIENCE_S)
        wait_for(lambda: waiting() == 1, "the queue")
        high = stub.Generate(request(**LONG, priority=5), timeout=PATIENCE_S)
        wait_for(lambda: waiting() == 2, "the queue")
        first.cancel()
        next(high)
        next(high)  # of a later step: the one in which it began is counted
        assert waiting() == 1, "the lower one has not waited for it"
        high.cancel()
        assert len(collect(low).ids) == 4
