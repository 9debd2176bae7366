# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels compiled ahead, and packs of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

from . import _tilewright
from ._tilewright import Attention, KernelReport, Limits, NvrtcInfo


def _package_folders() -> list[str]:
    """Where packages are installed: nvidia-cuda-nvrtc and torch bring the compiler."""
    return [
        path
        for path in dict.fromkeys(sys.path)
        if path.rstrip(os.sep).endswith(("site-packages", "dist-packages")) or os.path.isdir(os.path.join(path, "nvidia"))
    ]


# The library looks there when it needs the compiler first.
_tilewright._set_python_folders(_package_folders())


def compile_kernels(
    *attentions: Attention | str,
    archs: Iterable[str] = (),
    jobs: int = 0,
    ops: bool = True,
    block_structures: bool = False,
    limits: Limits | None = None,
    pack: str | os.PathLike[str] | None = None,
    progress: Callable[[KernelReport, int, int], object] | None = None,
) -> list[KernelReport]:
    """Compiles all CUDA kernels that these attentions and the operators may launch, into the cache. Needs no GPU.

    attentions: Attention objects (of any device), names of models ("llama-3.1-8b", see model_names()), or "all" for what
    users meet first. archs: "sm_80", "sm_90a", ...; default: those of this machine's GPUs. jobs: kernels at a time; 0: as
    many as there are cores. ops: also the kernels of operators and sampling. block_structures: also those of plans whose
    limits have block_structures. limits: only what plans of these limits launch (choose_kernels); block_structures then does
    not count. pack: a file to be written with all these kernels, for load_kernel_pack. progress: called
    as progress(report, done, total) after each kernel, from any thread. Of a model with several kinds of layers the kernel
    of plans that they share, full attention first, is among them.

    A kernel that does not compile has a report with an `error`, and no pack is written then. Releases the GIL. Errors:
    InvalidArgument, or Error (not_supported) where there is no NVRTC.
    """
    _tilewright._set_python_folders(_package_folders())
    return _tilewright._compile_kernels(
        *attentions,
        archs=list(archs),
        jobs=jobs,
        ops=ops,
        block_structures=block_structures,
        limits=limits,
        pack="" if pack is None else os.fspath(pack),
        progress=progress,
    )


def nvrtc_info() -> NvrtcInfo:
    """The NVRTC that kernels are compiled by: the first one of 12.4 or newer, whose major version the driver has too (where
    there is one). Error (not_supported): what was tried, and how to mend it."""
    _tilewright._set_python_folders(_package_folders())
    return _tilewright._nvrtc_info()


def set_nvrtc_path(path: str | os.PathLike[str] | None) -> None:
    """Where NVRTC is looked for before all other places, as the environment's TILEWRIGHT_NVRTC says: the path of
    libnvrtc.so.13 or its like; None takes it back."""
    _tilewright._set_nvrtc_path("" if path is None else os.fspath(path))


def set_kernel_cache_path(folder: str | os.PathLike[str] | None) -> None:
    """Another folder for compiled kernels than kernel_cache_path() says; None: they are kept in memory alone."""
    _tilewright._set_kernel_cache_path("" if folder is None else os.fspath(folder))


def load_kernel_pack(path: str | os.PathLike[str]) -> int:
    """Loads a pack that compile_kernels or `tilewright compile --pack` wrote; returns how many kernels it has. They are
    not compiled any more, and need neither NVRTC nor the cache. InvalidArgument for a file that is damaged or no pack."""
    return _tilewright._load_kernel_pack(os.fspath(path))
