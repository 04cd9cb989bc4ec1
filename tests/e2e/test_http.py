"""The HTTP listener: /metrics as Prometheus reads it, /healthz, /readyz, and what it refuses."""
# SPDX-License-Identifier: Apache-2.0
import re
import socket
import urllib.error

import pytest

from calls import generate
from server import PATIENCE_S

SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})? (-?[0-9.]+([eE][+-]?[0-9]+)?|NaN|[+-]Inf)$')


def parse(page):
    """{family: (type, {series: value})}; every line must be one of the format's."""
    families, types = {}, {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, f"{name} is declared twice"
            types[name] = kind
            families[name] = {}
        elif line and not line.startswith("# HELP "):
            match = SAMPLE.match(line)
            assert match, f"not a sample: {line!r}"
            family = next(n for n in (match[1], re.sub("_(bucket|sum|count)$", "", match[1])) if n in types)
            assert match[1] + (match[2] or "") not in families[family], f"twice: {line}"
            families[family][match[1] + (match[2] or "")] = float(match[3])
    return types, families


@pytest.mark.smoke
def test_the_metrics_page_counts_what_was_done(server, stub):
    before = parse(server.get("/metrics"))[1]
    generate(stub, ids=[5, 6, 7], max_tokens=9, ignore_eos=True)
    server.wait_until_empty()
    types, after = parse(server.get("/metrics"))

    def grew(name):
        assert types[name] == "counter" or name.endswith("_count"), types.get(name)
        return sum(after[name].values()) - sum(before[name].values())

    assert grew("espalier_prompt_tokens_total") == 3
    assert grew("espalier_output_tokens_total") == 9
    assert grew("espalier_requests_total") == 1
    for gauge in ("espalier_requests_running", "espalier_requests_waiting", "espalier_kv_pages_used"):
        assert types[gauge] == "gauge"


def test_histograms_are_cumulative_and_count_each_token(server, stub):
    def read(name):
        family = parse(server.get("/metrics"))[1][name]
        buckets = [(float(re.search('le="([^"]+)"', k)[1]), v) for k, v in family.items() if "_bucket" in k]
        values = [v for _, v in sorted(buckets)]
        assert values == sorted(values) and max(buckets)[0] == float("inf")
        assert values[-1] == family[name + "_count"] and family[name + "_sum"] >= 0
        return family[name + "_count"]

    before = {n: read(n) for n in ("espalier_time_to_first_token_seconds", "espalier_inter_token_latency_seconds")}
    generate(stub, ids=[5, 6, 7], max_tokens=9, ignore_eos=True)
    server.wait_until_empty()
    assert read("espalier_time_to_first_token_seconds") - before["espalier_time_to_first_token_seconds"] == 1
    assert read("espalier_inter_token_latency_seconds") - before["espalier_inter_token_latency_seconds"] == 8


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_serving_server_is_alive_and_ready(server, path):
    assert server.get(path)


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/../etc/passwd", "/%00", "/" + "x" * 5000])
def test_other_pages_are_not_there(server, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get(path)
    assert 400 <= caught.value.code < 500


def send(server, data):
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as s:
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            return s.recv(65536)
        except OSError:  # closed before all was sent, or never answered
            return b""


@pytest.mark.parametrize("data", [
    b"\x00\xff\x16\x03\x01", b"GET", b"GET /metrics HTTP/9.9\r\n\r\n", b"BREW /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
    b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
], ids=["binary", "half", "version", "method", "many-headers", "large-header", "length", "chunks"])
def test_T04_T05_hostile_http_is_answered_with_an_error_or_closed(server, data):
    assert not send(server, data).startswith(b"HTTP/1.1 200")
    assert server.get("/healthz")


def test_T29_idle_and_garbage_connections_harm_nobody(server, stub):
    """100 connections to each listener that say nothing, or nothing sensible."""
    idle = []
    for address in (server.address, server.http):
        host, port = address.split(":")
        for i in range(100):
            s = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
            if i % 2:
                s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0xFF, i]) * 50)
            idle.append(s)
    try:
        assert len(generate(stub, ids=[5], max_tokens=2, ignore_eos=True).ids) == 2
    finally:
        for s in idle:
            s.close()
