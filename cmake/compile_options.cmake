# Flags for every target of this project, as one interface target that is never installed.
add_library(tilewright_options INTERFACE)
target_compile_options(tilewright_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
  # Contraction must not depend on the compiler's mood: a fused multiply-add is written where it is meant.
  -ffp-contract=off)
if(TILEWRIGHT_WERROR)
  target_compile_options(tilewright_options INTERFACE -Werror)
endif()
if(TILEWRIGHT_SANITIZE)
  target_compile_options(tilewright_options INTERFACE
    -fsanitize=${TILEWRIGHT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  # GCC takes what sanitizers add for uses of uninitialized memory, and says so.
  target_compile_options(tilewright_options INTERFACE
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-maybe-uninitialized;-Wno-mismatched-new-delete>)
  target_link_options(tilewright_options INTERFACE -fsanitize=${TILEWRIGHT_SANITIZE})
endif()
# For code whose speed does not matter (tests, the command line): half of the compiler's time.
set(TILEWRIGHT_QUICK_BUILD $<$<CONFIG:Release>:-O1>)
