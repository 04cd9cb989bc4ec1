# cuda.cmake - the CUDA backend: kernels/cuda through nvcc where there is one, else the table that says why not.
#
#   esp_cuda_absent   always: a kern_cuda whose open says what is missing
#   esp_cuda_real     the backend, when nvcc works
#   esp_cuda          one of the two: what programs link; who links neither has the absent one through esp_engine
#
# No C++ is linked and no CUDA library is needed to start: cudart is static and finds the driver by itself.
# ptxas' report of each .cu lies beside its object (*.ptxas.txt); tests/gpu reads it.

set(ESPALIER_CUDA AUTO CACHE STRING "the CUDA backend: AUTO (where nvcc works), ON or OFF")
set_property(CACHE ESPALIER_CUDA PROPERTY STRINGS AUTO ON OFF)
set(ESPALIER_CUDA_ARCHS "80;86;89;90" CACHE STRING "compute capabilities; the last one's PTX goes along")

file(GLOB cuda_kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB cuda_hosts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.c)

find_program(ESPALIER_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda
  PATH_SUFFIXES bin DOC "NVIDIA's compiler")

set(cuda_flags -std=c++17 -O3 -Xfatbin=-compress-all
  "-Xcompiler=-fno-exceptions,-fno-rtti,-fno-threadsafe-statics,-Wall,-Wextra")
if(ESPALIER_WERROR)
  list(APPEND cuda_flags -Werror=all-warnings -Xcompiler=-Werror)
endif()
if(ESPALIER_CUDA_ARCHS)
  list(GET ESPALIER_CUDA_ARCHS -1 cuda_last)
endif()
foreach(arch IN LISTS ESPALIER_CUDA_ARCHS)
  set(code "sm_${arch}")
  if(arch STREQUAL cuda_last)
    set(code "[sm_${arch},compute_${arch}]")
  endif()
  list(APPEND cuda_flags "-gencode=arch=compute_${arch},code=${code}")
endforeach()

# Whether nvcc, its host compiler and these flags make an object; asked anew when one of them changes.
function(espalier_try_nvcc)
  set(asked "${ESPALIER_NVCC} ${cuda_flags}")
  if(asked STREQUAL "${ESPALIER_NVCC_ASKED}")
    return()
  endif()
  set(probe ${CMAKE_BINARY_DIR}/cuda/probe)
  file(WRITE ${probe}.cu "#include <cuda_runtime_api.h>\n#if CUDART_VERSION < 12040\n#error \"CUDA 12.4 or later is wanted\"\n#endif\n__global__ void k(float *p) { *p = 1; }\nint main(void) { k<<<1, 1>>>(nullptr); }\n")
  execute_process(COMMAND ${ESPALIER_NVCC} ${cuda_flags} -c ${probe}.cu -o ${probe}.o
    RESULT_VARIABLE status OUTPUT_FILE ${probe}.log ERROR_FILE ${probe}.log)
  set(ESPALIER_NVCC_ASKED "${asked}" CACHE INTERNAL "")
  set(ESPALIER_NVCC_STATUS "${status}" CACHE INTERNAL "")
endfunction()

# Sets cuda_missing to what stands in the way, or to nothing.
function(espalier_cuda_missing)
  set(missing "")
  if(NOT ESPALIER_CUDA)
    set(missing "it was configured with ESPALIER_CUDA=OFF")
  elseif(ESPALIER_SANITIZE)
    set(missing "sanitizers and nvcc do not go together")
  elseif(NOT ESPALIER_NVCC)
    set(missing "cmake found no nvcc")
  else()
    espalier_try_nvcc()
    get_filename_component(root ${ESPALIER_NVCC} REALPATH)
    get_filename_component(root ${root} DIRECTORY)
    get_filename_component(root ${root} DIRECTORY)
    set(target ${root}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux)
    find_path(ESPALIER_CUDA_INCLUDE cuda_runtime_api.h HINTS ${root}/include ${target}/include)
    find_library(ESPALIER_CUDART cudart_static HINTS ${root}/lib64 ${root}/lib ${target}/lib)
    mark_as_advanced(ESPALIER_CUDA_INCLUDE ESPALIER_CUDART)
    if(NOT ESPALIER_NVCC_STATUS EQUAL 0)
      set(missing "nvcc could not compile, or is older than 12.4 (see cuda/probe.log in the build folder)")
    elseif(NOT ESPALIER_CUDA_INCLUDE OR NOT ESPALIER_CUDART)
      set(missing "nvcc is there, but cuda_runtime_api.h or libcudart_static.a is not")
    endif()
  endif()
  set(cuda_missing "${missing}" PARENT_SCOPE)
endfunction()

# One object of a .cu; ccache knows nvcc. Ninja runs them side by side.
function(espalier_cuda_object source)
  get_filename_component(name ${source} NAME_WE)
  set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(OUTPUT ${object}
    BYPRODUCTS ${object}.ptxas.txt
    COMMAND ${CMAKE_SOURCE_DIR}/kernels/cuda/ptxas_report.sh ${object}.ptxas.txt ${CMAKE_C_COMPILER_LAUNCHER}
      ${ESPALIER_NVCC} ${cuda_flags} -Xptxas=-v -I${CMAKE_SOURCE_DIR}
      -I${CMAKE_SOURCE_DIR}/kernels/cuda -MD -MF ${object}.d
      -c ${source} -o ${object}
    DEPENDS ${source} ${CMAKE_SOURCE_DIR}/kernels/cuda/ptxas_report.sh
    DEPFILE ${object}.d
    COMMENT "nvcc ${name}.cu" VERBATIM COMMAND_EXPAND_LISTS)
  set(cuda_objects ${cuda_objects} ${object} PARENT_SCOPE)
endfunction()

espalier_cuda_missing()
if(cuda_missing AND NOT ESPALIER_CUDA STREQUAL "AUTO" AND ESPALIER_CUDA)
  message(FATAL_ERROR "ESPALIER_CUDA=ON, but ${cuda_missing}. Install the CUDA toolkit (12.4 or later), name it "
    "with -DESPALIER_NVCC=/path/to/nvcc, or configure with -DESPALIER_CUDA=AUTO")
endif()

set(cuda_objects "")
if(NOT cuda_missing)
  foreach(source IN LISTS cuda_kernels)
    espalier_cuda_object(${source})
  endforeach()
  # By itself: what nvcc makes of the kernels.
  add_custom_target(esp_cuda_kernels DEPENDS ${cuda_objects})
endif()

set(cuda_why "this program was linked without it")
if(cuda_missing)
  set(cuda_why "${cuda_missing}")
endif()
add_library(esp_cuda_absent STATIC ${CMAKE_SOURCE_DIR}/kernels/absent/cuda_absent.c
  ${CMAKE_SOURCE_DIR}/cluster/nccl/comm_nccl_absent.c)
target_link_libraries(esp_cuda_absent PRIVATE espalier_flags PUBLIC esp_cluster esp_kernels)
target_compile_definitions(esp_cuda_absent PRIVATE CUDA_WHY_ABSENT="${cuda_why}")

if(cuda_missing)
  message(STATUS "CUDA backend: no, ${cuda_missing}")
  add_library(esp_cuda ALIAS esp_cuda_absent)
else()
  message(STATUS "CUDA backend: ${ESPALIER_NVCC}, sm_${ESPALIER_CUDA_ARCHS}")
  add_library(esp_cuda_real STATIC ${cuda_hosts} ${cuda_objects}
    ${CMAKE_SOURCE_DIR}/cluster/nccl/comm_nccl.c ${CMAKE_SOURCE_DIR}/cluster/nccl/nccl_load.c)
  add_dependencies(esp_cuda_real esp_cuda_kernels)
  target_include_directories(esp_cuda_real SYSTEM PUBLIC ${ESPALIER_CUDA_INCLUDE})
  target_link_libraries(esp_cuda_real PRIVATE espalier_flags
    PUBLIC esp_cluster esp_kernels ${ESPALIER_CUDART} Threads::Threads m ${CMAKE_DL_LIBS} rt)
  set_target_properties(esp_cuda_real PROPERTIES LINKER_LANGUAGE C)
  add_library(esp_cuda ALIAS esp_cuda_real)
endif()
