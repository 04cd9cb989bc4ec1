"""One `espalier serve` on free loopback ports, and what tests ask of it."""
# SPDX-License-Identifier: Apache-2.0
import os
import re
import signal
import subprocess
import time
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

PATIENCE_S = float(os.environ.get("ESPALIER_TEST_PATIENCE", "300"))
"""Seconds before a test says that something hangs. No speed is asserted anywhere."""
ANY_PORT = "127.0.0.1:0"


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}")


class Server:
    def __init__(self, binary, model, flags, folder, credentials=None, metadata=(), kv_memory="512M", pack="off"):
        self.address = self.http = self.control = None  # where it listens, once it says so
        self.credentials, self.metadata, self.binary = credentials, metadata, binary
        self.log_path = os.path.join(folder, "serve.log")
        # setpriv (util-linux) has the kernel end the server when the test run is killed. Not a preexec_fn:
        # that forks this process, whose gRPC threads do not survive a fork.
        command = ["setpriv", "--pdeathsig", "KILL", binary, "serve", "--model", model, "--grpc", ANY_PORT, "--http", ANY_PORT,
                   "--kv-memory", kv_memory, "--pack", pack, *map(str, flags)]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def whole_log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def log(self):
        return self.whole_log()[-4000:]

    def channel(self, *options):
        # A connection of its own for each channel: equal arguments would share one.
        options = (("grpc.use_local_subchannel_pool", 1),) + options
        if self.credentials:
            return grpc.secure_channel(self.address, self.credentials, options)
        return grpc.insecure_channel(self.address, options)

    @staticmethod
    def stub(channel):
        from espalier.v1 import inference_pb2_grpc
        return inference_pb2_grpc.InferenceStub(channel)

    def health(self, service="", timeout=PATIENCE_S):
        with self.channel() as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            return health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout).status

    def is_listening(self):
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log()}"
        said = re.search(r" event=serving grpc=(\S+) http=(\S+) control=(\S+) ", self.whole_log())
        if said:
            self.address, self.http, self.control = said.groups()
        return said is not None

    def is_serving(self):
        if not self.is_listening():
            return False
        try:
            return self.health() == health_pb2.HealthCheckResponse.SERVING
        except grpc.RpcError as error:
            # With tokens, health needs one too; to be told so means that it serves.
            return error.code() == grpc.StatusCode.UNAUTHENTICATED

    def wait_until_serving(self):
        wait_for(self.is_serving, "SERVING")

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=PATIENCE_S) as reply:
            return reply.read().decode()

    def metric(self, name):
        """The sum of a metric's series."""
        rows = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.eE+-]+|NaN)$", self.get("/metrics"), re.MULTILINE)
        assert rows, f"{name} is not on the page:\n{self.get('/metrics')}"
        return sum(map(float, rows))

    def load(self):
        return {name: self.metric("espalier_" + name)
                for name in ("requests_running", "requests_waiting", "kv_pages_used")}

    def wait_until_empty(self):
        wait_for(lambda: not any(self.load().values()), f"an empty server, last {self.load()}")

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def stop(self):
        """SIGTERM and the exit code."""
        self.signal()
        return self.process.wait(timeout=PATIENCE_S)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
