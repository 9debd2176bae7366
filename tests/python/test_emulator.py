# SPDX-License-Identifier: Apache-2.0
"""Every name of kernels/arch has a twin in tests/emulator/arch: what is added to one and forgotten in the
other shows here, and not when a kernel first uses it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECLARED = re.compile(r"(?:TW_DEVICE [\w:]+\*? |struct (?:alignas\(\w+\) )?|using |constexpr \w+ )(\w+)\b(?!::)")
OWN = re.compile(r"namespace emulator \{.*?\}  // namespace emulator", re.S)


def names(path):
    text = re.sub(r"^#.*$", "", OWN.sub("", path.read_text()), flags=re.M)
    return set(DECLARED.findall(text))


# What host compilers take as it is: the emulator has no header of its own for it.
PLAIN = {"elements.h", "fp8.h"}
HEADERS = sorted(path for path in (ROOT / "kernels/arch").glob("*.h") if path.name not in PLAIN)


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_every_name_has_its_twin(header):
    twin = ROOT / "tests/emulator/arch" / header.name
    expected = names(header)
    assert expected
    assert names(twin) == expected
