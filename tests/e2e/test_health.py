"""grpc.health.v1 and server reflection, asked by the libraries that others use."""
# SPDX-License-Identifier: Apache-2.0
import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from server import PATIENCE_S

SERVING = health_pb2.HealthCheckResponse.SERVING
INFERENCE = "espalier.v1.Inference"


@pytest.mark.smoke
@pytest.mark.parametrize("service", ["", INFERENCE])
def test_check_says_serving(server, service):
    assert server.health(service) == SERVING


def test_check_of_an_unknown_service_is_not_found(server):
    with pytest.raises(grpc.RpcError) as caught:
        server.health("no.such.Service")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service, status", [
    ("", SERVING), (INFERENCE, SERVING), ("no.such", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)])
def test_watch_tells_the_state_at_once_and_stays_open(server, service, status):
    with server.channel() as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)
        assert next(call).status == status
        assert not call.done()
        call.cancel()


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
def test_reflection_lists_the_services(server, version):
    with server.channel() as channel:
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        call = channel.stream_stream(path, reflection_pb2.ServerReflectionRequest.SerializeToString,
                                     reflection_pb2.ServerReflectionResponse.FromString)
        (reply,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="*")]), timeout=PATIENCE_S)
        names = {s.name for s in reply.list_services_response.service}
        assert {INFERENCE, "grpc.health.v1.Health", f"grpc.reflection.{version}.ServerReflection"} <= names


@pytest.mark.smoke
def test_a_client_without_our_proto_files_can_call(server):
    """grpcio-reflection finds the descriptors, messages are made of them, and a call works."""
    with server.channel() as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(INFERENCE).methods_by_name["Tokenize"]
        ask, reply = (message_factory.GetMessageClass(t) for t in (method.input_type, method.output_type))
        call = channel.unary_unary(f"/{INFERENCE}/Tokenize", ask.SerializeToString, reply.FromString)
        assert list(call(ask(text="Hello"), timeout=PATIENCE_S).token_ids) == [19556]


def test_reflection_answers_an_unknown_symbol_with_an_error_and_goes_on(server):
    with server.channel() as channel:
        ask = reflection_pb2.ServerReflectionRequest
        requests = [ask(file_containing_symbol="no.such"), ask(file_by_filename="/etc/passwd"),
                    ask(file_containing_symbol=INFERENCE + ".Generate")]
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        replies = list(stub.ServerReflectionInfo(iter(requests), timeout=PATIENCE_S))
        codes = [r.error_response.error_code for r in replies]
        assert codes == [grpc.StatusCode.NOT_FOUND.value[0]] * 2 + [0]
        assert replies[2].file_descriptor_response.file_descriptor_proto
