# The CUDA sources compiled for the emulator, and the emulator; and the tests that run on it.
enable_language(CXX)
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")
set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g3")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g")
set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_C_COMPILER_LAUNCHER})

set(cudaemu_folder ${CMAKE_SOURCE_DIR}/tests/cudaemu)

# Flags of every C++ file here. A kernel's pointers change type freely, and pragmas are nvcc's.
add_library(cudaemu_flags INTERFACE)
target_include_directories(cudaemu_flags INTERFACE ${CMAKE_SOURCE_DIR} ${cudaemu_folder}
  ${CMAKE_SOURCE_DIR}/kernels/cuda)
target_compile_definitions(cudaemu_flags INTERFACE _GNU_SOURCE ESPALIER_CUDAEMU)
target_compile_options(cudaemu_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-std=c++17 -Wall -Wextra -Wno-unknown-pragmas -fno-exceptions
  -fno-rtti -ffp-contract=off -fno-strict-aliasing>
  $<$<BOOL:${ESPALIER_WERROR}>:-Werror>)

# Before each access to memory a kernel asks emu_guard.cpp; a sanitizer's build has its own.
set(cudaemu_kernel_options -xc++)
if(NOT ESPALIER_SANITIZE)
  target_compile_definitions(cudaemu_flags INTERFACE EMU_GUARD)
  list(APPEND cudaemu_kernel_options -fsanitize=kernel-address
    --param=asan-instrumentation-with-call-threshold=0 --param=asan-stack=0 --param=asan-globals=0
    -fsanitize=alignment -fno-sanitize-recover=alignment)
endif()

# cudaemu_kernels(sources...): .cu files as C++.
function(cudaemu_kernels)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX
    COMPILE_OPTIONS "${cudaemu_kernel_options}")
endfunction()

file(GLOB cudaemu_sources CONFIGURE_DEPENDS ${cudaemu_folder}/*.cpp)
add_library(cudaemu STATIC ${cudaemu_sources})
target_link_libraries(cudaemu PUBLIC cudaemu_flags Threads::Threads m)
if(ESPALIER_SANITIZE MATCHES "thread")
  # The core is what the sanitizer must not look at: it is told of fibers and barriers instead.
  foreach(core fiber block warp shared copy matrix)
    set_source_files_properties(${cudaemu_folder}/emu_${core}.cpp PROPERTIES
      COMPILE_OPTIONS "-fno-sanitize=thread;-DEMU_TSAN")
  endforeach()
endif()

file(GLOB cuda_kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB cuda_hosts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.c)
if(cuda_kernels OR cuda_hosts)
  add_library(esp_cudaemu STATIC ${cuda_hosts} ${CMAKE_SOURCE_DIR}/cluster/nccl/comm_nccl.c
    ${cudaemu_folder}/nccl_linked.c)
  target_link_libraries(esp_cudaemu PRIVATE espalier_flags PUBLIC cudaemu esp_cluster esp_kernels)
else()
  add_library(esp_cudaemu INTERFACE)
  target_link_libraries(esp_cudaemu INTERFACE cudaemu esp_kernels)
endif()
if(cuda_kernels)
  cudaemu_kernels(${cuda_kernels})
  add_library(esp_cudaemu_kernels OBJECT ${cuda_kernels})
  target_link_libraries(esp_cudaemu_kernels PRIVATE cudaemu_flags)
  target_sources(esp_cudaemu PRIVATE $<TARGET_OBJECTS:esp_cudaemu_kernels>)
  set_target_properties(esp_cudaemu PROPERTIES LINKER_LANGUAGE CXX)
endif()
