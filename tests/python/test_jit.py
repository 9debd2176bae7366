# SPDX-License-Identifier: Apache-2.0
"""Kernels compiled ahead, packs, and the warnings of the cache."""

import os
import subprocess
import sys

import pytest
import tilewright as tw


@pytest.fixture
def cache(tmp_path):
    tw.set_kernel_cache_path(tmp_path / "kernels")
    yield tmp_path / "kernels"
    tw.set_kernel_cache_path(None)


def compile_some(**options):
    attention = tw.Attention(num_qo_heads=8, num_kv_heads=2, head_dim=128)
    return tw.compile_kernels(attention, archs=["sm_80"], ops=False, **options)


def test_reports_progress_and_cache(cache):
    seen = []
    reports = compile_some(progress=lambda report, done, total: seen.append((report.kernel, done, total)))
    assert reports
    assert [done for _, done, _ in seen] == list(range(1, len(reports) + 1))
    for report in reports:
        assert report.arch == "sm_80"
        assert report.error == ""
        assert report.spill_bytes == 0
        assert 0 < report.registers <= 255
        assert report.kernel in repr(report)
    assert all(report.from_cache for report in compile_some())
    assert len(list(cache.glob("*.kernel"))) == len(reports)


def test_entries_of_the_cache(cache):
    # Those that this process has in memory already are not written again.
    attention = tw.Attention(num_qo_heads=6, num_kv_heads=2, head_dim=64)
    reports = tw.compile_kernels(attention, archs=["sm_80"], ops=False)
    entries = tw.kernel_cache_entries()
    assert len(entries) >= 2
    assert {entry.kernel for entry in entries} <= {report.kernel for report in reports}
    for entry in entries:
        assert entry.arch == "sm_80"
        assert entry.damage == ""
        assert entry.bytes == os.path.getsize(entry.file if os.path.isabs(entry.file) else cache / entry.file)
        assert "NVRTC" in entry.compiler or str(tw.nvrtc_info().major) in entry.compiler
        assert entry.kernel in repr(entry)
    damaged = next(cache.glob("*.kernel"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (found,) = (entry for entry in tw.kernel_cache_entries() if entry.damage)
    assert damaged.name in found.file
    assert found.damage in repr(found)
    assert tw.clear_kernel_cache(damaged_only=True) == 1
    assert len(tw.kernel_cache_entries()) == len(entries) - 1
    assert tw.clear_kernel_cache() >= len(entries) - 1
    assert tw.kernel_cache_entries() == []


def test_nvrtc():
    info = tw.nvrtc_info()
    assert (info.major, info.minor) >= (12, 4)
    assert f"{info.major}.{info.minor}" in repr(info)
    assert info.path in repr(info)
    code = (
        "import tilewright as tw\n"
        "tw.set_nvrtc_path('/nowhere/libnvrtc.so.13')\n"
        "try:\n"
        "    print(tw.nvrtc_info())\n"
        "except tw.Error as error:\n"
        "    print(error)\n"
        "tw.set_nvrtc_path(None)\n"
        "print(tw.nvrtc_info().path)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tried, found = result.stdout.strip().rsplit("\n", 1)
    assert "/nowhere/libnvrtc.so.13" in tried
    assert found == info.path


def test_pack(cache, tmp_path):
    pack = tmp_path / "kernels.pack"
    reports = compile_some(pack=pack)
    assert tw.load_kernel_pack(pack) == len(reports)
    pack.write_bytes(pack.read_bytes() + b"x")
    with pytest.raises(tw.InvalidArgument, match="1 bytes too many"):
        tw.load_kernel_pack(pack)
    with pytest.raises(tw.InvalidArgument, match="cannot be read"):
        tw.load_kernel_pack(tmp_path / "nowhere")


def test_arguments():
    with pytest.raises(tw.InvalidArgument, match=r"model is gpt-9: it must be one of .*llama-3.1-8b"):
        tw.compile_kernels("gpt-9", archs=["sm_80"])
    with pytest.raises(tw.InvalidArgument, match="archs has sm_7"):
        tw.compile_kernels(archs=["sm_7"])
    with pytest.raises(TypeError, match="an attention is of type int"):
        tw.compile_kernels(5, archs=["sm_80"])
    assert "llama-3.1-8b" in tw.model_names()


def test_cache_path():
    code = "import tilewright as tw; print(tw.kernel_cache_path())"
    environment = {**os.environ, "XDG_CACHE_HOME": "/x"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "/x/tilewright/kernels\n"


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    code = (
        "import tilewright as tw, warnings\n"
        f"tw.set_kernel_cache_path({str(tmp_path / 'file' / 'kernels')!r})\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    reports = tw.compile_kernels('llama-3.1-8b', archs=['sm_80'], ops=False)\n"
        "print(len(reports), [str(w.message) for w in caught if 'cannot be written' in str(w.message)])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, texts = result.stdout.split(" ", 1)
    assert int(count) > 0
    assert texts.count("the kernel cache in") == 1
