"""TLS, mTLS and bearer tokens, with certificates that openssl makes on the spot."""
# SPDX-License-Identifier: Apache-2.0
import subprocess

import grpc
import pytest

from calls import generate, pb
from server import PATIENCE_S


class Certificates:
    def __init__(self, folder):
        self.folder = folder
        self.authority("ca")
        self.authority("stranger")
        self.signed("server", "ca", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self.signed("client", "ca", "subjectAltName=URI:spiffe://test/client")
        self.signed("intruder", "stranger", "subjectAltName=URI:spiffe://test/intruder")

    def path(self, name):
        return str(self.folder / name)

    def bytes(self, name):
        return (self.folder / name).read_bytes()

    def openssl(self, *words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=PATIENCE_S)

    def authority(self, name):
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                     "-subj", f"/CN={name}", "-keyout", self.path(name + ".key"), "-out", self.path(name + ".pem"))

    def signed(self, name, authority, extension):
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                     "-keyout", self.path(name + ".key"), "-out", self.path(name + ".csr"))
        (self.folder / (name + ".ext")).write_text(extension + "\n")
        self.openssl("x509", "-req", "-days", "2", "-in", self.path(name + ".csr"), "-CA", self.path(authority + ".pem"),
                     "-CAkey", self.path(authority + ".key"), "-CAcreateserial", "-extfile", self.path(name + ".ext"),
                     "-out", self.path(name + ".pem"))

    def credentials(self, client=None, roots="ca"):
        key, chain = (self.bytes(client + ".key"), self.bytes(client + ".pem")) if client else (None, None)
        return grpc.ssl_channel_credentials(self.bytes(roots + ".pem"), key, chain)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


def tls_flags(c, mutual=False):
    flags = ("--tls-cert", c.path("server.pem"), "--tls-key", c.path("server.key"))
    return flags + (("--client-ca", c.path("ca.pem")) if mutual else ())


def try_with(server, credentials):
    """A short answer over a channel with these credentials, or the status code."""
    if credentials:
        channel = grpc.secure_channel(server.address, credentials)
    else:
        channel = grpc.insecure_channel(server.address)
    with channel:
        try:
            return generate(server.stub(channel), ids=[5], max_tokens=1, ignore_eos=True).ids
        except grpc.RpcError as error:
            return error.code()


@pytest.mark.smoke
def test_tls_serves_those_who_trust_its_authority(start_server, certificates, espalier):
    server = start_server(*tls_flags(certificates), credentials=certificates.credentials())
    assert len(try_with(server, certificates.credentials())) == 1
    assert try_with(server, certificates.credentials(roots="stranger")) == grpc.StatusCode.UNAVAILABLE
    assert try_with(server, None) == grpc.StatusCode.UNAVAILABLE
    espalier("health", server.address, "--wait", PATIENCE_S, "--ca", certificates.path("ca.pem"))
    espalier("health", server.address, code=69)
    assert server.stop() == 0


def test_mtls_serves_only_certificates_of_the_client_authority(start_server, certificates, espalier):
    server = start_server(*tls_flags(certificates, mutual=True), credentials=certificates.credentials("client"))
    assert len(try_with(server, certificates.credentials("client"))) == 1
    for client in (None, "intruder"):
        assert try_with(server, certificates.credentials(client)) == grpc.StatusCode.UNAVAILABLE
    espalier("health", server.address, "--wait", PATIENCE_S, "--ca", certificates.path("ca.pem"), "--cert",
             certificates.path("client.pem"), "--key", certificates.path("client.key"))
    assert server.stop() == 0


def test_T16_T17_without_a_listed_token_nothing_is_answered(start_server, espalier, refused, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("first-token-0123456789\nsecond-token-0123456789\n")
    server = start_server("--token-file", tokens)
    code = grpc.StatusCode.UNAUTHENTICATED
    with server.channel() as channel:
        stub = server.stub(channel)
        good = [("authorization", "Bearer second-token-0123456789")]
        assert len(generate(stub, ids=[5], max_tokens=1, metadata=good).ids) == 1
        assert stub.Tokenize(pb.TokenizeRequest(text="x"), metadata=good).token_ids
        bad = [(), [("authorization", "Bearer ")], [("authorization", "second-token-0123456789")],
               [("authorization", "Bearer second-token-012345678")], [("authorization", "Bearer second-token-01234567890")],
               [("authorization", "Basic second-token-0123456789")], [("x-token", "second-token-0123456789")],
               [("authorization", "Bearer first-token-0123456789 second-token-0123456789")]]
        for metadata in bad:
            refused(lambda: stub.Generate(pb.GenerateRequest(prompt="x", max_tokens=1), metadata=metadata), code)
            refused(lambda: stub.Tokenize(pb.TokenizeRequest(text="x"), metadata=metadata), code)
            refused(lambda: stub.Detokenize(pb.DetokenizeRequest(token_ids=[5]), metadata=metadata), code)
            refused(lambda: stub.ListModels(pb.ListModelsRequest(), metadata=metadata), code)
    assert "second-token" not in server.log()
    done = espalier("chat", server.address, "--prompt", "Say hi.", "--max-tokens", 4, "--token", "first-token-0123456789")
    assert done.stdout.strip()
    espalier("chat", server.address, "--prompt", "Say hi.", code=77)
    assert server.stop() == 0


def test_a_listener_for_others_without_tls_needs_insecure(espalier, model):
    done = espalier("serve", "--model", model, "--grpc", "0.0.0.0:0", "--http", "off", code=64)
    assert "--insecure" in done.stderr and "--tls-cert" in done.stderr


@pytest.mark.parametrize("broken", ["missing", "garbage", "stranger-key"])
def test_bad_tls_files_are_named(espalier, model, certificates, tmp_path, broken):
    key = {"missing": tmp_path / "none.key", "garbage": tmp_path / "garbage.key",
           "stranger-key": certificates.path("client.key")}[broken]
    (tmp_path / "garbage.key").write_text("nonsense")
    done = espalier("serve", "--model", model, "--grpc", "127.0.0.1:0", "--http", "off", "--tls-cert",
                    certificates.path("server.pem"), "--tls-key", key, code=None)
    assert done.returncode in (65, 66, 69, 74, 77, 78), done.returncode
    assert "tls" in done.stderr.lower()
