# SPDX-License-Identifier: Apache-2.0
"""The examples and the code of README and docs run, and the package carries its types."""

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


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if python_blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages(page):
    """The Python of a page is one program."""
    run("-c", "\n".join(python_blocks(page)))


def test_python_page_has_programs():
    assert len(python_blocks(ROOT / "docs/python.md")) > 3


def test_types_are_in_the_package():
    package = Path(tw.__file__).parent
    assert (package / "py.typed").exists()
    stub = (package / "_tilewright.pyi").read_text()
    ast.parse(stub)
    for name in ("class Plan:", "class Attention:", "def run(", "def sample("):
        assert name in stub


def public(module):
    return [getattr(module, name) for name in module.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("module", [tw, tw.expr, tw.variants, tw.sampling, tw.speculative], ids=lambda module: module.__name__)
def test_everything_public_has_a_docstring(module):
    for item in public(module):
        if callable(item) or isinstance(item, type):
            assert item.__doc__, item
