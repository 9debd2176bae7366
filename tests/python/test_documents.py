# SPDX-License-Identifier: Apache-2.0
"""The examples and the code of docs/python.md run, and the package carries its types."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tilewright as tw

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*arguments):
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples(example):
    assert run(str(example))


def test_python_page():
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 3
    run("-c", "\n".join(blocks))


def test_types_are_in_the_package():
    package = Path(tw.__file__).parent
    assert (package / "py.typed").exists()
    stub = (package / "_tilewright.pyi").read_text()
    ast.parse(stub)
    for name in ("class Plan:", "class Attention:", "def run(", "def sample("):
        assert name in stub


def public(module):
    return [getattr(module, name) for name in module.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("module", [tw, tw.expr, tw.variants, tw.sampling], ids=lambda module: module.__name__)
def test_everything_public_has_a_docstring(module):
    for item in public(module):
        if callable(item) or isinstance(item, type):
            assert item.__doc__, item
