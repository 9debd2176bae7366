# SPDX-License-Identifier: Apache-2.0
"""What bench/ladder.py does with torch, on the CPU: its reference, and how other libraries are called. Skipped without
torch."""

import inspect
import types

import pytest

torch = pytest.importorskip("torch")

import ladder_peers
import ladder_torch
from ladder_rows import Row, decode_row, prefill_row

SMALL = {"qo_heads": 4, "kv_heads": 2, "head_dim": 16}
ROWS = [
    decode_row("decode", [40, 100], **SMALL),
    prefill_row("full", [40, 100], causal=False, **SMALL),
    decode_row("fp8", [40, 100], kv_dtype="f8e4m3", **SMALL),
    decode_row("sinks", [40, 100], sinks=True, **SMALL),
    prefill_row("all", [40, 100], window=20, sinks=True, kv_dtype="f8e4m3", **SMALL),
    Row("levels", "levels", [1, 1], [40, 50], prefix=16, **SMALL),
]


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    for module in (ladder_torch, ladder_peers):
        monkeypatch.setattr(module, "DEVICE", "cpu")
    monkeypatch.setattr(ladder_torch, "COLD_BYTES", 1)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_module_agrees_with_the_reference(row):
    figures = ladder_torch.host_times(row, run_us=1e6)
    assert 0 < figures["python_err"] < ladder_torch.MOST_ERROR
    assert "ok" not in figures


@pytest.mark.parametrize("forgotten", [{"window": 0}, {"sinks": False}, {"causal": False}])
def test_the_reference_sees_what_was_forgotten(forgotten):
    row = prefill_row("row", [40, 100], window=20, sinks=True, **SMALL)
    tensors = ladder_torch.Tensors(row)
    out = torch.cat([tensors.expected(i, torch.arange(row.q_lens[i])) for i in range(2)])
    assert tensors.error(out.bfloat16()) < 4e-3
    for name, value in forgotten.items():
        setattr(row, name, value)
    if not row.sinks:
        tensors.sinks = None
    assert tensors.error(out) > 2 * ladder_torch.MOST_ERROR
    assert tensors.error(out * torch.nan) == torch.inf


def fa3(sink_argument=None):
    """A FlashAttention-3 that keeps what it was called with."""
    module = types.ModuleType("flash_attn_interface")
    module.calls = []

    def call(q, k, v, **options):
        module.calls.append(options)
        return q

    if sink_argument:
        parameter = inspect.Parameter(sink_argument, inspect.Parameter.KEYWORD_ONLY, default=None)
        call.__signature__ = inspect.Signature([parameter])
    module.flash_attn_with_kvcache = call
    module.round_up_headdim = lambda head_dim: 128 if head_dim <= 128 else 256
    return module


@pytest.fixture
def peers():
    peers = ladder_peers.Peers.__new__(ladder_peers.Peers)
    peers.flashinfer, peers.with_xqa = None, False
    return peers


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"kv_dtype": "f8e4m3"}, "fp8 queries"), ({"sinks": True}, "no sinks"), ({"head_dim": 64}, "head_dim 64")],
)
def test_a_library_that_cannot_do_a_row_is_left_out(peers, capsys, options, reason):
    peers.fa3 = fa3()
    assert peers.ways(ladder_torch.Tensors(decode_row("row", [40], **options))) == {}
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("argument", ladder_peers.SINK_ARGUMENTS)
def test_fa3_is_given_windows_and_sinks(peers, argument):
    peers.fa3 = fa3(argument)
    tensors = ladder_torch.Tensors(decode_row("row", [40, 50], window=20, sinks=True))
    ways = peers.ways(tensors)
    assert list(ways) == ["fa3", "fa3 unsplit"]
    _, run = ways["fa3"]()
    assert run().shape == (2, 1, 32, 128)
    (call,) = peers.fa3.calls
    assert call["window_size"] == (19, 0)
    assert torch.equal(call[argument].float(), tensors.sinks)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (decode_row("decode", [40]), ["fa2", "fa2 tc", "auto", "xqa", "BatchAttention"]),
        (decode_row("window", [40], window=20), ["fa2", "fa2 tc", "auto", "xqa"]),
        (decode_row("sinks", [40], sinks=True), ["fa2", "fa3", "xqa"]),
        (decode_row("spec", [40], q_len=4), ["fa2", "fa3", "BatchAttention"]),
        (prefill_row("prefill", [40], sinks=True), ["fa2", "fa3"]),
        (Row("levels", "levels", [1], [40], prefix=16), ["cascade", "fa2", "fa2 tc", "auto", "xqa", "BatchAttention"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_flashinfers_ways_of_a_row(peers, row, expected):
    peers.flashinfer, peers.fa3, peers.with_xqa = types.ModuleType("flashinfer"), None, True
    assert list(peers.ways(ladder_torch.Tensors(row))) == [f"flashinfer {way}" for way in expected]
