# The plan kernel as the library writes it, for device_plan_test.
add_executable(write_update_kernels device_plan/generate/write_update_kernels.cpp)
target_include_directories(write_update_kernels PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(write_update_kernels PRIVATE tilewright_static tilewright_options fmt::fmt)
set(kernels ${CMAKE_CURRENT_BINARY_DIR}/device_plan/update_kernels.h)
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/device_plan)
add_custom_command(OUTPUT ${kernels} COMMAND write_update_kernels ${kernels} DEPENDS write_update_kernels VERBATIM)
target_sources(device_plan_test PRIVATE fuzz/batch_case.cpp ${kernels})
# Kernels are inlined whole: compiled for the compiler's time, not for the machine's.
set_source_files_properties(device_plan/emulated_plan.cpp device_plan/generated_kernel_test.cpp
                            PROPERTIES COMPILE_OPTIONS "-O1")
target_include_directories(device_plan_test PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
