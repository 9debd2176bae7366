# SPDX-License-Identifier: Apache-2.0
"""The exceptions of the library; the extension module raises them."""


class Error(RuntimeError):
    """An error of the library. The message names the argument, what it is and what it must be.

    `code` says what kind it is: "invalid_argument", "limit_exceeded" (a batch over the limits of its plan),
    "not_supported" (a valid request that no kernel of this device answers), "invalid_state" (called in the wrong order),
    "out_of_memory", "device_error" (the GPU or its driver failed), "compile_error" (a kernel did not compile) or
    "internal".
    """

    code: str = ""


class InvalidArgument(Error, ValueError):
    """An argument is malformed: its rank, shape, dtype, stride, device or value."""


Error.__module__ = InvalidArgument.__module__ = "tilewright"
