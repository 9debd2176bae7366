# The kernels of attentions as the library writes them, for attention_cuda_test.
add_executable(write_attention_kernels attention_cuda/generate/write_attention_kernels.cpp)
target_include_directories(write_attention_kernels PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src)
target_compile_options(write_attention_kernels PRIVATE ${TILEWRIGHT_QUICK_BUILD})
target_link_libraries(write_attention_kernels PRIVATE tilewright_test_support tilewright_options
                      fmt::fmt GTest::gtest)
set(folder ${CMAKE_CURRENT_BINARY_DIR}/attention_cuda)
file(MAKE_DIRECTORY ${folder})
set(kernels ${folder}/kernels_all.cpp ${folder}/plans.cpp)
foreach(i RANGE 29)  # as many as compiled_cases() has
  list(APPEND kernels ${folder}/kernels_${i}.cpp)
endforeach()
add_custom_command(OUTPUT ${kernels} COMMAND write_attention_kernels ${folder} DEPENDS write_attention_kernels VERBATIM)
# Device code has anonymous structs. -O1 in every preset: it runs in sanitized builds, too, and -O2 takes the compiler
# twice as long for tests that are a seventh faster. Precompiled headers are not these texts'.
set_source_files_properties(${kernels} PROPERTIES COMPILE_OPTIONS "-Wno-pedantic;-O1"
                            SKIP_PRECOMPILE_HEADERS ON)
target_sources(attention_cuda_test PRIVATE ${kernels})
