// SPDX-License-Identifier: Apache-2.0
// Nothing but what tests/CMakeLists.txt has precompiled for the tests.
int main() {}
