# cuda_checks.cmake - what nvcc made of the kernels: registers, spills, instructions, size. Skipped where it made nothing.

if(ESPALIER_SANITIZE)
  return()
endif()
find_package(Python3 COMPONENTS Interpreter)
if(NOT Python3_FOUND)
  message(STATUS "Checks of compiled kernels: no python3")
  return()
endif()

set(check ${CMAKE_CURRENT_SOURCE_DIR}/gpu/check_kernels.py)
foreach(part ptxas sass fatbin)
  add_test(NAME cuda_${part} COMMAND ${Python3_EXECUTABLE} ${check} ${part} ${CMAKE_BINARY_DIR})
endforeach()
add_test(NAME cuda_checks COMMAND ${Python3_EXECUTABLE} -B -m unittest -q test_kernel_facts test_gpu_report test_gpu_scripts test_roofline
  WORKING_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/gpu)
set_tests_properties(cuda_ptxas cuda_sass cuda_fatbin cuda_checks PROPERTIES
  LABELS cuda TIMEOUT ${test_seconds} SKIP_RETURN_CODE 77 ENVIRONMENT "PYTHONDONTWRITEBYTECODE=1")
