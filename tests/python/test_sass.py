# SPDX-License-Identifier: Apache-2.0
"""The machine code of CUDA kernels: that the instructions they are written for are there, and nothing is spilled."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

# Registers of a thread that leave room for as many blocks of threads on an SM as the kernels are written for, by how the
# kernels' names begin: the longest one counts.
BUDGETS = {"attention": 255, "decode": 255, "sample": 128, "sample_cluster": 80, "top": 128, "verify": 128, "plan": 96}


# In a process of its own: this one may have compiled some of the kernels before, which are not written again then.
COMPILE = """
import json, sys
import tilewright as tw
arch, cache = sys.argv[1:]
tw.set_kernel_cache_path(cache)
attention = tw.Attention(num_qo_heads=32, num_kv_heads=8, head_dim=128)
reports = tw.compile_kernels(attention, archs=[arch])
print(json.dumps({report.kernel: [report.registers, report.spill_bytes] for report in reports}))
"""


def disassembler():
    """nvdisasm of the package nvidia-cuda-nvdisasm, which scripts/setup installs, or of a toolkit."""
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    found = [*packages.glob("*/bin/nvdisasm"), shutil.which("nvdisasm"), "/usr/local/cuda/bin/nvdisasm"]
    return next((str(path) for path in found if path and os.access(path, os.X_OK)), None)


def disassembled(kernel_file):
    """The text of a file of the cache."""
    binary = kernel_file.read_bytes()
    cubin = kernel_file.with_suffix(".cubin")
    cubin.write_bytes(binary[binary.index(b"\x7fELF") :])
    return subprocess.run([disassembler(), "-c", cubin], stdout=subprocess.PIPE, text=True, check=True).stdout


def functions_of(text):
    """The instructions of each function, without their operands."""
    functions = {}
    for line in text.splitlines():
        if line.startswith(".text."):
            code = functions.setdefault(line[len(".text.") :].rstrip(":"), [])
        elif match := re.search(r"/\*[0-9a-f]{4,5}\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*)", line):
            code.append(match[1])
    return functions


def arrivals_that_leave_a_lane_apart(text):
    """Arrivals at an mbarrier in a branch that a warp's other lanes take around it, where nothing waits for all of them
    at its end: ptxas 13.0 leaves out BSSY and BSYNC where other branches end there, too."""
    lines = text.splitlines()
    is_instruction = re.compile(r"\s*/\*[0-9a-f]{4,}\*/")
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.startswith(".L_x_")}
    found = []
    target = None
    for line in lines:
        if branch := re.search(r"BRA\b.*`\((\.L_x_\d+)\)", line):
            target = branch[1]
        elif re.search(r"\*/ +SYNCS\.ARRIVE", line) and target in labels:
            behind = next(after for after in lines[labels[target] :] if is_instruction.match(after))
            if "BSYNC" not in behind:
                found.append(line.strip())
    return found


@pytest.fixture(scope="module", params=["sm_80", "sm_90a"])
def compiled(request, tmp_path_factory):
    """Registers, spilled bytes, functions and texts of the kernels that a common model needs, for one architecture."""
    if disassembler() is None:
        pytest.skip("there is no nvdisasm: pip install nvidia-cuda-nvdisasm")
    # `make test` has a folder where tests of C++ left kernels that they compiled.
    shared = os.environ.get("TILEWRIGHT_TEST_KERNELS")
    cache = Path(shared) / request.param if shared else tmp_path_factory.mktemp("kernels")
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", COMPILE, request.param, cache]
    reports = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    files = {re.search(rb"^name (\w+)$", file.read_bytes(), re.MULTILINE)[1].decode(): file for file in cache.glob("*.kernel")}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = dict(zip(files, pool.map(disassembled, files.values())))
    assert texts.keys() == reports.keys()
    return reports, {name: functions_of(text) for name, text in texts.items()}, texts


def count(code, start):
    return sum(instruction.startswith(start) for instruction in code)


# Its places where the threads of a warp may run apart, as far as ptxas knows, and what they do together is there twice.
# They are behind calls, on ways that are seldom taken.
HOPPER_DIVERGENT_PLACES = 16


def is_of_hopper(functions, name):
    return any(count(code, "HGMMA") for code in functions[name].values())


def test_nothing_is_spilled(compiled):
    reports, functions, _ = compiled
    for name, (_, spill_bytes) in reports.items():
        assert spill_bytes == 0, name
        for function, code in functions[name].items():
            # Plans have lists of a mask's intervals, which are indexed at run time.
            if not name.startswith("plan"):
                assert count(code, "LDL") == 0 and count(code, "STL") == 0, function


def test_registers(compiled):
    reports, _, _ = compiled
    for name, (registers, _) in reports.items():
        begins = [begin for begin in BUDGETS if name.startswith(f"{begin}_")]
        assert 0 < registers <= BUDGETS.get(max(begins, key=len, default=""), 80), name


def test_no_lane_is_left_apart(compiled):
    _, _, texts = compiled
    for name, text in texts.items():
        assert not arrivals_that_leave_a_lane_apart(text), name


@pytest.mark.parametrize("kernel", ["attention", "decode"])
def test_attention(compiled, kernel):
    _, functions, _ = compiled
    code = functions[f"{kernel}_bf16_bf16_d128_g4"]["tilewright_attention"]
    if is_of_hopper(functions, f"{kernel}_bf16_bf16_d128_g4"):
        # Keys and values of 128 elements, 16 at a time: of many rows the first keys, keys and values of the loop, and the
        # last values. Of few rows a group has half of a block's keys, and all blocks are the loop's.
        assert count(code, "HGMMA.64x128x16.F32.BF16") == 4 * 8 + 4
        assert count(code, "HGMMA.64x64x16.F32.BF16") == 8
        assert count(code, "UTMALDG.4D") == 2
        assert count(code, "BRA.DIV") <= HOPPER_DIVERGENT_PLACES
    else:
        # A warp's part of two products: of 32 rows with a block of 32 or more keys, and of 16 rows with 16 keys.
        products = 128 + 32 if kernel == "attention" else 32
        assert count(code, "HMMA.16816.F32.BF16") >= products
        assert count(code, "LDSM.16") >= products // 4
    copies = [instruction for instruction in code if instruction.startswith("LDGSTS")]
    assert copies and all(".128" in copy and "BYPASS" in copy for copy in copies)


def test_operators_move_16_bytes_at_a_time(compiled):
    _, functions, _ = compiled
    for name in ("rms_norm", "act_and_mul", "write_kv_cache"):
        code = [instruction for kernel, entries in functions.items() if kernel.startswith(name)
                for entry in entries.values() for instruction in entry]  # fmt: skip
        assert code, f"no kernel of {name}"
        assert any(re.fullmatch(r"LDG\.E[\w.]*\.128[\w.]*", instruction) for instruction in code), name
        assert any(re.fullmatch(r"STG\.E[\w.]*\.128[\w.]*", instruction) for instruction in code), name
