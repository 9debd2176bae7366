# SPDX-License-Identifier: Apache-2.0
"""bench/clocks.py on a stand-in for NVML."""

import time

import clocks
import pytest
from clocks import Clocks, Gpu, Sample

NOT_SUPPORTED = 3


class FakeNvml:
    """A GPU that is at its power limit."""

    def __init__(self, instant=True, fails=()):
        self.instant, self.fails = instant, fails
        self.opened = None

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def call(*arguments):
            if name in self.fails:
                return NOT_SUPPORTED
            getattr(self, "_" + name, lambda *_: None)(*arguments)
            return 0

        return call

    def _nvmlDeviceGetHandleByIndex_v2(self, index, device):
        self.opened = index.value

    def _nvmlDeviceGetHandleByUUID(self, uuid, device):
        self.opened = uuid

    def _nvmlDeviceGetName(self, device, text, length):
        text.value = b"Fake GPU"

    def _nvmlDeviceGetClockInfo(self, device, kind, clock):
        assert kind.value == 1  # SM
        clock._obj.value = 1500

    def _nvmlDeviceGetMaxClockInfo(self, device, kind, clock):
        clock._obj.value = 1980

    def _nvmlDeviceGetCurrentClocksThrottleReasons(self, device, reasons):
        reasons._obj.value = 0x4

    def _nvmlDeviceGetFieldValues(self, device, count, value):
        assert (count.value, value._obj.field) == (1, 186)
        value._obj.status = 0 if self.instant else NOT_SUPPORTED
        value._obj.value = 650_000

    def _nvmlDeviceGetPowerUsage(self, device, power):
        power._obj.value = 600_000


@pytest.fixture(autouse=True)
def _no_choice_of_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_gpu_tells_its_clock_and_power():
    gpu = Gpu(FakeNvml())
    assert gpu.name() == "Fake GPU"
    assert gpu.most_mhz() == 1980
    assert gpu.sample()[1:] == (1500, 650.0, 4)


def test_older_gpus_tell_the_mean_power():
    assert Gpu(FakeNvml(instant=False)).sample().watts == 600.0


@pytest.mark.parametrize(("visible", "opened"), [("3,1", 3), ("GPU-12ab", b"GPU-12ab")])
def test_the_gpu_is_the_one_that_cuda_sees_first(monkeypatch, visible, opened):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = FakeNvml()
    Gpu(nvml)
    assert nvml.opened == opened


def test_no_gpu_is_an_os_error(monkeypatch):
    with pytest.raises(OSError, match="nvmlInit_v2 returned 3"):
        Gpu(FakeNvml(fails=["nvmlInit_v2"]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(OSError, match="names no GPU"):
        Gpu(FakeNvml())


def test_without_a_gpu_nothing_is_sampled(monkeypatch):
    for failure in (OSError("no library"), AttributeError("an old library")):

        def fail(failure=failure):
            raise failure

        monkeypatch.setattr(clocks, "Gpu", fail)
        with Clocks.of_this_machine() as sampled:
            assert sampled.about == {}
            assert sampled.between(0, time.monotonic()) is None


def test_samples_are_taken_in_the_background(monkeypatch):
    monkeypatch.setattr(clocks, "PERIOD_S", 0.001)
    begin = time.monotonic()
    with Clocks(Gpu(FakeNvml())) as sampled:
        assert sampled.about == {"gpu": "Fake GPU", "most_sm_mhz": 1980}
        while not (seen := sampled.between(begin, time.monotonic())):
            assert time.monotonic() < begin + 20
            time.sleep(0.001)
    assert seen["sm_mhz"] == seen["sm_mhz_least"] == 1500
    assert (seen["watts"], seen["power_throttled"], seen["heat_throttled"]) == (650, 1.0, 0.0)


def test_a_gpu_that_fails_later_gives_no_more_samples(monkeypatch):
    monkeypatch.setattr(clocks, "PERIOD_S", 0.001)
    nvml = FakeNvml()
    with Clocks(Gpu(nvml)) as sampled:
        nvml.fails = ["nvmlDeviceGetClockInfo"]
        time.sleep(0.02)
        after = time.monotonic()
        time.sleep(0.02)
        assert sampled.between(after + 0.01, after + 0.02) is None or sampled.between(after, after)["samples"] == 1


def test_ranges_have_their_own_samples():
    sampled = Clocks()
    sampled._samples = [Sample(10.0, 1000, 100, 0), Sample(11.0, 1900, 400, 0x4), Sample(12.0, 1700, 600, 0x20)]
    assert sampled.between(10.5, 12.5) == {
        "sm_mhz": 1800,
        "sm_mhz_least": 1700,
        "watts": 500,
        "power_throttled": 0.5,
        "heat_throttled": 0.5,
        "samples": 2,
    }
    # Too short for a sample of its own: the nearest one, unless it is far.
    assert sampled.between(10.95, 10.96)["sm_mhz"] == 1900
    assert sampled.between(11.05, 11.06)["sm_mhz"] == 1900
    assert sampled.between(11.4, 11.5) is None
