# more_tests.cmake - the tests that are no unit test of this build: end to end (pytest over grpcio), and the
# sanitizer builds. With `ctest -C sanitizers` one ctest run covers all; a plain `ctest` leaves those out,
# so that a developer's release build does not ask for two more. scripts/test.sh builds all three.

set(sanitizer_builds ${CMAKE_SOURCE_DIR}/build)

# espalier_e2e(NAME ENVIRONMENT [SANITIZER] ARGUMENTS pytest's...)
function(espalier_e2e name environment)
  cmake_parse_arguments(A "SANITIZER" "" "ARGUMENTS" ${ARGN})
  set(only "")
  if(A_SANITIZER)
    set(only CONFIGURATIONS sanitizers)
  endif()
  add_test(NAME ${name} ${only} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/e2e/run.sh ${A_ARGUMENTS})
  set_tests_properties(${name} PROPERTIES
    LABELS e2e TIMEOUT ${test_seconds} SKIP_RETURN_CODE 77 ENVIRONMENT "${environment}")
endfunction()

# Only the release build lists these; asan and tsan are reached from it.
if(ESPALIER_SANITIZE OR NOT ESPALIER_SERVER)
  return()
endif()

set(bin ESPALIER_BIN=${CMAKE_BINARY_DIR}/espalier)
file(GLOB e2e_sources CONFIGURE_DEPENDS e2e/test_*.py)
foreach(source IN LISTS e2e_sources)
  get_filename_component(file ${source} NAME_WE)
  string(REPLACE "test_" "" part ${file})
  if(part STREQUAL "accuracy")
    # Two halves, because ref is slow: they run beside each other.
    espalier_e2e(e2e_accuracy_ref ${bin} ARGUMENTS test_accuracy.py -k "test_ref")
    espalier_e2e(e2e_accuracy_cpu ${bin} ARGUMENTS test_accuracy.py -k "not test_ref")
    set_tests_properties(e2e_accuracy_ref e2e_accuracy_cpu PROPERTIES COST 200)
  else()
    espalier_e2e(e2e_${part} ${bin} ARGUMENTS ${file}.py)
    set_tests_properties(e2e_${part} PROPERTIES COST 60)
  endif()
endforeach()

# The AMX sources at other levels of optimisation.
if(TARGET esp_cpu_amx)
  add_test(NAME amx_flags COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/amx_flags.sh ${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR}
    ${CMAKE_C_COMPILER} "$<TARGET_PROPERTY:esp_cpu_amx,COMPILE_OPTIONS>"
    "-D$<JOIN:$<TARGET_PROPERTY:esp_cpu_amx,COMPILE_DEFINITIONS>,;-D>" COMMAND_EXPAND_LISTS)
  set_tests_properties(amx_flags PROPERTIES LABELS unit TIMEOUT ${test_seconds} SKIP_RETURN_CODE 77 COST 30)
endif()

# asan+ubsan: every unit test and every fuzz corpus, as the other build has them.
set(asan_options "ASAN_OPTIONS=abort_on_error=1:detect_leaks=1:strict_string_checks=1"
                 "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1"
                 "LSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/lsan.supp:print_suppressions=0")
set(tsan_options "TSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/tsan.supp:halt_on_error=1:second_deadlock_stack=1")

# sanitized(PREFIX OPTIONS NAME [DIR FOLDER] [AS NAME] ARGUMENTS...): NAME of build/PREFIX as test PREFIX.NAME, or as the other.
function(sanitized prefix options name)
  cmake_parse_arguments(A "" "DIR;AS" "" ${ARGN})
  if(NOT A_AS)
    set(A_AS ${name})
  endif()
  add_test(NAME ${prefix}.${A_AS} CONFIGURATIONS sanitizers
    COMMAND ${sanitizer_builds}/${prefix}/tests/${A_DIR}/${name} ${A_UNPARSED_ARGUMENTS})
  set_tests_properties(${prefix}.${A_AS} PROPERTIES
    LABELS ${prefix} TIMEOUT ${test_seconds} SKIP_RETURN_CODE 77 ENVIRONMENT "${options}")
endfunction()

foreach(source IN LISTS unit_sources)
  get_filename_component(name ${source} NAME_WE)
  sanitized(asan "${asan_options}" ${name})
endforeach()
foreach(source IN LISTS fuzz_sources)
  get_filename_component(name ${source} NAME_WE)
  string(REPLACE "fuzz_" "" target ${name})
  sanitized(asan "${asan_options}" ${name} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${target})
endforeach()

# What tiles load and store is seen where they are emulated.
if(TARGET amxemu)
  foreach(name test_output_amx test_unpack_amx test_lora_kernels)
    sanitized(asan "${asan_options};ESPALIER_AMXEMU=1" ${name} AS amxemu.${name})
  endforeach()
endif()

# tsan: what has more than one thread.
foreach(name test_queue test_pool test_comm_local test_comm_tcp test_comm_nodes test_ranks test_ranks_nodes test_read_ahead test_stream test_engine test_record test_sample_rows test_rpc test_serve test_replicas test_store_processes)
  if(EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/unit/${name}.c)
    sanitized(tsan "${tsan_options}" ${name})
  endif()
endforeach()

# The kernels and the device's host side over the emulator: all of it for bounds, what is quick enough for races.
file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/test_*.c)
foreach(source IN LISTS cuda_sources)
  get_filename_component(name ${source} NAME_WE)
  sanitized(asan "${asan_options}" ${name} DIR cuda)
endforeach()
foreach(name test_cuda_wrappers test_cuda_rope_store test_cuda_page_copy test_cuda_small test_cuda_lora test_cuda_pack
  test_cuda_sample_rows test_cudaemu_runtime test_cudaemu_nccl test_cudaemu_ranks test_cudaemu_faults)
  sanitized(tsan "${tsan_options}" ${name} DIR cuda)
endforeach()
set_tests_properties(asan.test_cuda_engine tsan.test_cudaemu_faults tsan.test_cudaemu_ranks PROPERTIES COST 150)

# Without TLS under tsan: it would need a suppression for libcrypto, which is not instrumented either.
espalier_e2e(asan.e2e_smoke "ESPALIER_BIN=${sanitizer_builds}/asan/espalier;${asan_options}" SANITIZER
  ARGUMENTS -m smoke)
espalier_e2e(tsan.e2e_smoke "ESPALIER_BIN=${sanitizer_builds}/tsan/espalier;${tsan_options}" SANITIZER
  ARGUMENTS -m smoke -k "not tls")
set_tests_properties(asan.e2e_smoke tsan.e2e_smoke PROPERTIES COST 150)
