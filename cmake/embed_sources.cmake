# Writes a C++ file with the device code's sources as text: cmake -DOUTPUT=x.cpp -DKERNELS=dir -DPLAN=dir -P this.
# Names are what #include says: those below kernels/, "plan/..." of the scheduler's headers, and <cstdint> for
# kernels/std/cstdint.h.
cmake_minimum_required(VERSION 3.25)
set(text "// SPDX-License-Identifier: Apache-2.0\n// Made by cmake/embed_sources.cmake.\n#include \"jit/embedded.h\"\n\n")
string(APPEND text "namespace tilewright::jit {\nnamespace {\n\nconstexpr EmbeddedFile kFiles[] = {\n")
set(names)

function(embed file name)
  if(name IN_LIST names)
    message(FATAL_ERROR "two device sources are called ${name}: one of them is ${file}")
  endif()
  list(APPEND names ${name})
  set(names "${names}" PARENT_SCOPE)
  file(READ ${file} content)
  # A literal may be 64 KiB at most for some compilers: files are under 500 lines.
  set(text "${text}    {\"${name}\", R\"__tw__(${content})__tw__\"},\n" PARENT_SCOPE)
endfunction()

file(GLOB_RECURSE files RELATIVE ${KERNELS} ${KERNELS}/*.h)
list(SORT files)
foreach(file IN LISTS files)
  string(REGEX REPLACE "^std/(.*)\\.h$" "\\1" name ${file})
  embed(${KERNELS}/${file} ${name})
endforeach()
file(GLOB files RELATIVE ${PLAN} ${PLAN}/*.h)
list(SORT files)
foreach(file IN LISTS files)
  embed(${PLAN}/${file} plan/${file})
endforeach()

string(APPEND text "};\n\n}  // namespace\n\n")
string(APPEND text "std::span<const EmbeddedFile> embedded_files() { return kFiles; }\n\n}  // namespace tilewright::jit\n")
file(WRITE ${OUTPUT} "${text}")
