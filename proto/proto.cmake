# The wire: generated messages (esp_proto), and the gRPC C core behind proto/rpc.h (esp_rpc).
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c)
find_program(PROTOC protoc REQUIRED)
find_program(PROTOC_C protoc-c REQUIRED)

# What clients may see by reflection, and what only our own code reads.
set(public_protos
  espalier/v1/control.proto
  espalier/v1/inference.proto
  grpc/health/v1/health.proto
  grpc/reflection/v1/reflection.proto
  grpc/reflection/v1alpha/reflection.proto)
set(internal_protos
  google/rpc/error_details.proto
  google/rpc/status.proto
  internal/descriptor_names.proto)

set(proto_root ${CMAKE_SOURCE_DIR}/proto)
set(generated_root ${CMAKE_BINARY_DIR}/generated)
file(MAKE_DIRECTORY ${generated_root})

set(generated_sources)
foreach(proto IN LISTS public_protos internal_protos)
  string(REGEX REPLACE "[.]proto$" ".pb-c" stem ${proto})
  add_custom_command(
    OUTPUT ${generated_root}/${stem}.c ${generated_root}/${stem}.h
    COMMAND ${PROTOC_C} --proto_path=${proto_root} --c_out=${generated_root} ${proto}
    DEPENDS ${proto_root}/${proto}
    COMMENT "protoc-c ${proto}" VERBATIM)
  list(APPEND generated_sources ${generated_root}/${stem}.c)
endforeach()

# Reflection hands out the descriptors as protoc wrote them: protobuf-c keeps no serialised copy.
set(descriptor_set ${generated_root}/descriptor_set.bin)
list(TRANSFORM public_protos PREPEND ${proto_root}/ OUTPUT_VARIABLE public_proto_files)
add_custom_command(
  OUTPUT ${descriptor_set}
  COMMAND ${PROTOC} --proto_path=${proto_root} --include_imports
          --descriptor_set_out=${descriptor_set} ${public_protos}
  DEPENDS ${public_proto_files} COMMENT "protoc --descriptor_set_out" VERBATIM)
add_custom_command(
  OUTPUT ${generated_root}/descriptor_set.c
  COMMAND ${CMAKE_COMMAND} -DINPUT=${descriptor_set} -DOUTPUT=${generated_root}/descriptor_set.c
          -P ${proto_root}/embed.cmake
  DEPENDS ${descriptor_set} ${proto_root}/embed.cmake VERBATIM)
list(APPEND generated_sources ${generated_root}/descriptor_set.c)

# Generated code is not held to our warnings.
add_library(esp_proto STATIC ${generated_sources})
target_include_directories(esp_proto SYSTEM PUBLIC ${generated_root})
target_link_libraries(esp_proto PUBLIC PkgConfig::PROTOBUF_C)

# -lgrpc -lgpr is enough: pkg-config's list of a hundred libraries is for static links.
espalier_library(esp_rpc GLOB proto/*.c
  LINK esp_proto esp_base PkgConfig::UTF8PROC PkgConfig::OPENSSL_CRYPTO grpc gpr)
