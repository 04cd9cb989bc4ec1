"""The end of a server: SIGTERM drains, a second one is fast, a grace time has an end."""
# SPDX-License-Identifier: Apache-2.0
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from calls import collect, generate, request
from server import PATIENCE_S, wait_for

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LONG = dict(ids=[1000], max_tokens=8000, ignore_eos=True)


def watch(channel):
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)


@pytest.mark.smoke
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_running_stream_finishes_while_new_ones_are_refused(start_server, number):
    server = start_server("--grace", 600, "--threads", 2)
    with server.channel() as channel, server.channel() as late:
        generate(server.stub(late), ids=[5], max_tokens=1)  # a connection from before
        health = watch(channel)
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        stream = server.stub(channel).Generate(request(ids=[1000], max_tokens=20, ignore_eos=True), timeout=PATIENCE_S)
        first = next(stream)
        server.signal(number)
        assert next(health).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            generate(server.stub(late), ids=[5], max_tokens=1)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        rest = list(stream)
        answer = collect([first, *rest])
        assert len(answer.ids) == 20
    assert server.process.wait(timeout=PATIENCE_S) == 0, server.log()


def test_an_idle_server_ends_with_0(start_server):
    assert start_server().stop() == 0


def test_open_watches_do_not_hold_a_drain_up(start_server):
    server = start_server()
    with server.channel() as channel:
        calls = [watch(channel) for _ in range(5)]
        assert [next(c).status for c in calls] == [health_pb2.HealthCheckResponse.SERVING] * 5
        assert server.stop() == 0


def test_a_second_signal_ends_running_streams(start_server):
    server = start_server("--grace", 3600)
    with server.channel() as channel:
        stream = server.stub(channel).Generate(request(**LONG), timeout=PATIENCE_S)
        next(stream)
        server.signal()
        wait_for(lambda: "drain" in server.log().lower(), "a word about the drain in the log")
        assert server.process.poll() is None
        server.signal()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert server.process.wait(timeout=PATIENCE_S) == 0, server.log()


def test_the_grace_time_ends(start_server):
    server = start_server("--grace", 1)
    with server.channel() as channel:
        stream = server.stub(channel).Generate(request(**LONG), timeout=PATIENCE_S)
        next(stream)
        server.signal()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert server.process.wait(timeout=PATIENCE_S) == 0, server.log()


def test_readyz_says_no_while_draining(start_server):
    import urllib.error
    server = start_server("--grace", 600)
    with server.channel() as channel:
        stream = server.stub(channel).Generate(request(**LONG), timeout=PATIENCE_S)
        next(stream)
        server.signal()

        def refused():
            try:
                server.get("/readyz")
            except urllib.error.HTTPError as error:
                return error.code == 503
            return False

        wait_for(refused, "503 from /readyz")
        assert server.get("/healthz")
        stream.cancel()
    assert server.process.wait(timeout=PATIENCE_S) == 0, server.log()
