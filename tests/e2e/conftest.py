"""Fixtures: the binary, one server a module, stubs made from proto/ at test time, and small helpers."""
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
import tempfile

import grpc
import pytest
from grpc_tools import protoc

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PROTO = os.path.join(ROOT, "proto")


def pytest_configure(config):
    """Stubs before any test module is imported, in a folder that goes away with the run."""
    folder = config.stash[STUBS] = TemporaryStubs()
    folder.make()


class TemporaryStubs:
    FILES = ["espalier/v1/inference.proto", "espalier/v1/control.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"]

    def make(self):
        self.folder = tempfile.TemporaryDirectory(prefix="espalier-stubs-")
        arguments = ["protoc", f"-I{PROTO}", f"--python_out={self.folder.name}",
                     f"--grpc_python_out={self.folder.name}"]
        # Ours of google/rpc/ are small; a package of the same name may sit in site-packages, so ours come first.
        if protoc.main(arguments + self.FILES) != 0:
            raise RuntimeError("protoc does not take the published .proto files")
        sys.path.insert(0, self.folder.name)


STUBS = pytest.StashKey()


@pytest.fixture(scope="session")
def binary():
    path = os.environ.get("ESPALIER_BIN", os.path.join(ROOT, "build", "release", "espalier"))
    assert os.path.exists(path), f"no binary at {path}: build it or set ESPALIER_BIN"
    return os.path.abspath(path)


@pytest.fixture(scope="session")
def model():
    return os.environ["ESPALIER_MODEL"]


@pytest.fixture(scope="session")
def espalier(binary):
    """espalier("tokenize", "--model", ...) -> CompletedProcess with text streams; code is what is
    expected, None for anything."""

    def run(*arguments, code=0, stdin=None, timeout=900, text=True):
        if stdin is None:
            stdin = "" if text else b""
        done = subprocess.run([binary, *map(str, arguments)], input=stdin, capture_output=True,
                              timeout=timeout, text=text)
        assert code is None or done.returncode == code, f"exit {done.returncode}, wanted {code}: {done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def packs():
    """A folder for the model's pack: packing it takes a sanitizer's build half a minute, each time."""
    with tempfile.TemporaryDirectory(prefix="espalier-packs-") as folder:
        yield folder


@pytest.fixture(scope="session")
def start_server(binary, model, packs, tmp_path_factory):
    """start_server(*flags, ...) -> Server; all are stopped at the end, whatever happened. Each has one thread unless flags
    say otherwise: ctest runs as many tests at once as there are processors."""
    from server import Server
    servers = []

    def start(*flags, **options):
        server = Server(binary, model, ("--threads", 1, *flags), tmp_path_factory.mktemp("server"), **{"pack": packs, **options})
        servers.append(server)
        server.wait_until_serving()
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def server_flags():
    """What a module's server is started with besides the model; a module may say otherwise."""
    return []


@pytest.fixture(scope="module")
def server(start_server, server_flags):
    """One server for the whole module; it must live, empty, when the module is done."""
    server = start_server(*server_flags)
    yield server
    assert server.process.poll() is None, "the server died:\n" + server.log()
    server.wait_until_empty()
    assert server.stop() == 0, server.log()


@pytest.fixture(scope="module")
def stub(server):
    with server.channel() as channel:
        yield server.stub(channel)


def field_violations(error):
    """The fields named by google.rpc.BadRequest in the error's trailing details."""
    from google.rpc import error_details_pb2, status_pb2
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            fields = []
            for detail in status_pb2.Status.FromString(value).details:
                if detail.type_url.endswith("google.rpc.BadRequest"):
                    bad = error_details_pb2.BadRequest.FromString(detail.value)
                    fields += [v.field for v in bad.field_violations]
            return fields
    return []


@pytest.fixture(scope="session")
def refused():
    """refused(call, code, *words): the call fails with this code and a sentence with all of these words."""

    def check(call, code, *words):
        with pytest.raises(grpc.RpcError) as caught:
            result = call()
            if hasattr(result, "__iter__"):
                list(result)
        error = caught.value
        assert error.code() == code, f"{error.code()}: {error.details()}"
        assert len(error.details()) > 10, "a status without a sentence"
        for word in words:
            assert word in error.details(), f"{word!r} is not in {error.details()!r}"
        return error

    return check
