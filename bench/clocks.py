# SPDX-License-Identifier: Apache-2.0
"""A GPU's SM clock and power while something runs on it, by NVML: whether times are those of a throttled GPU.

Where there is no NVML or no GPU, there are no samples and nothing else changes.
"""

import bisect
import ctypes
import os
import statistics
import threading
import time
from typing import NamedTuple

PERIOD_S = 0.02
# How far from a short time range the sample for it may be.
NEAR_S = 0.1

# nvml.h
CLOCK_SM = 1
FIELD_POWER_INSTANT = 186
# Why a clock is lower than asked for: power (software's cap, the board's brake), temperature (software, hardware).
REASONS_POWER = 0x4 | 0x80
REASONS_HEAT = 0x20 | 0x40


class _FieldValue(ctypes.Structure):
    """nvmlFieldValue_t, whose union holds an unsigned int here."""

    _fields_ = [("field", ctypes.c_uint), ("scope", ctypes.c_uint), ("timestamp", ctypes.c_longlong),
                ("latency_us", ctypes.c_longlong), ("value_type", ctypes.c_int), ("status", ctypes.c_int),
                ("value", ctypes.c_uint), ("rest", ctypes.c_uint)]  # fmt: skip


class Sample(NamedTuple):
    at: float  # time.monotonic()
    sm_mhz: int
    watts: float
    reasons: int


class Gpu:
    """The first GPU that CUDA would see. OSError where there is none."""

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        self._nvml = library or ctypes.CDLL("libnvidia-ml.so.1")
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        device = ctypes.byref(self._device)
        if visible.startswith("GPU-"):
            self._call("nvmlDeviceGetHandleByUUID", visible.encode(), device)
        elif visible.isdigit():
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(visible)), device)
        else:
            raise OSError(f"CUDA_VISIBLE_DEVICES={visible!r} names no GPU")

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._nvml, name)(*arguments)
        if status != 0:
            raise OSError(f"{name} returned {status}")

    def name(self) -> str:
        text = ctypes.create_string_buffer(96)
        self._call("nvmlDeviceGetName", self._device, text, ctypes.c_uint(len(text)))
        return text.value.decode()

    def most_mhz(self) -> int:
        clock = ctypes.c_uint()
        self._call("nvmlDeviceGetMaxClockInfo", self._device, ctypes.c_int(CLOCK_SM), ctypes.byref(clock))
        return clock.value

    def sample(self) -> Sample:
        clock, reasons = ctypes.c_uint(), ctypes.c_ulonglong()
        self._call("nvmlDeviceGetClockInfo", self._device, ctypes.c_int(CLOCK_SM), ctypes.byref(clock))
        self._call("nvmlDeviceGetCurrentClocksThrottleReasons", self._device, ctypes.byref(reasons))
        return Sample(time.monotonic(), clock.value, self._milliwatts() / 1e3, reasons.value)

    def _milliwatts(self) -> int:
        # The power of now where the GPU tells it: the plain call's is a mean over a second.
        value = _FieldValue(field=FIELD_POWER_INSTANT)
        self._call("nvmlDeviceGetFieldValues", self._device, ctypes.c_int(1), ctypes.byref(value))
        if value.status == 0:
            return value.value
        power = ctypes.c_uint()
        self._call("nvmlDeviceGetPowerUsage", self._device, ctypes.byref(power))
        return power.value


class Clocks:
    """Samples in the background, as long as the `with` block lasts."""

    def __init__(self, gpu: Gpu | None = None) -> None:
        self.gpu = gpu
        # What --json says of the GPU.
        self.about = {"gpu": gpu.name(), "most_sm_mhz": gpu.most_mhz()} if gpu else {}
        self._samples: list[Sample] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @classmethod
    def of_this_machine(cls) -> "Clocks":
        try:
            gpu = Gpu()
            gpu.sample()
            return cls(gpu)
        except (OSError, AttributeError):  # no library, no GPU, or a library too old
            return cls()

    def __enter__(self) -> "Clocks":  # noqa: PYI034  # typing.Self came with Python 3.11
        if self.gpu:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self.gpu:
            self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(PERIOD_S):
            try:
                self._samples.append(self.gpu.sample())
            except OSError:  # a GPU that is busy with an error of its own: the figures will say so
                continue

    def between(self, begin: float, end: float) -> dict | None:
        """Means from `begin` to `end` of time.monotonic(): of the samples in between, or else of the nearest one."""
        samples = self._samples[:]
        times = [sample.at for sample in samples]
        first, last = bisect.bisect_left(times, begin), bisect.bisect_right(times, end)
        if first == last:
            near = min(samples, key=lambda sample: max(begin - sample.at, sample.at - end), default=None)
            if near is None or max(begin - near.at, near.at - end) > NEAR_S:
                return None
            chosen = [near]
        else:
            chosen = samples[first:last]

        def share(reasons: int) -> float:
            return round(sum(bool(sample.reasons & reasons) for sample in chosen) / len(chosen), 2)

        return {
            "sm_mhz": round(statistics.mean(sample.sm_mhz for sample in chosen)),
            "sm_mhz_least": min(sample.sm_mhz for sample in chosen),
            "watts": round(statistics.mean(sample.watts for sample in chosen)),
            # Shares of the samples.
            "power_throttled": share(REASONS_POWER),
            "heat_throttled": share(REASONS_HEAT),
            "samples": len(chosen),
        }
