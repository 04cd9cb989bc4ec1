# amxemu.cmake - the tests of the AMX level once more, over emulated instructions (README.md).

file(GLOB amxemu_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*.c)
add_library(amxemu STATIC ${amxemu_sources})
target_link_libraries(amxemu PRIVATE espalier_flags esp_kernels PkgConfig::CMOCKA)
# What a trap runs, which is never on a processor without; the rest runs in every test.
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/tiles.c ${CMAKE_CURRENT_LIST_DIR}/bf16_vectors.c
  PROPERTIES COMPILE_OPTIONS "-O3;-mavx2;-mfma;-mavx512f")
target_link_options(amxemu INTERFACE
  -Wl,--wrap=kern_cpu_best_level -Wl,--wrap=cpu_has -Wl,--wrap=pthread_sigmask)

# espalier_amxemu(NAME): once more the unit test NAME, which is linked with it.
function(espalier_amxemu name)
  add_test(NAME amxemu.${name} COMMAND ${name})
  set_tests_properties(amxemu.${name} PROPERTIES TIMEOUT ${test_seconds} LABELS unit SKIP_RETURN_CODE 77
    ENVIRONMENT ESPALIER_AMXEMU=1 COST 30)
endfunction()
