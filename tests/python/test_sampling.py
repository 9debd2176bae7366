# SPDX-License-Identifier: Apache-2.0
"""Sampling from Python: the forms of its arguments, and that a draw depends on nothing else."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tilewright as tw
from tilewright.sampling import LogProbs, SamplingOutputs, SamplingStatus, sample, top_k


@pytest.fixture
def logits():
    return np.random.default_rng(1).standard_normal((8, 500)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_greedy(logits, dtype):
    tokens = sample(logits.astype(dtype), temperature=0)
    assert tokens.dtype == np.int32
    assert np.array_equal(tokens, logits.astype(dtype).astype(np.float32).argmax(1))


def test_the_same_draw_in_any_batch(logits):
    seeds, steps = np.arange(8) + 100, np.arange(8) % 3
    arguments = dict(temperature=0.8, top_k=50, top_p=0.95, min_p=0.01)
    tokens = sample(logits, **arguments, seeds=seeds, steps=steps)
    assert np.array_equal(tokens, sample(logits, **arguments, seeds=seeds, steps=steps))
    order = np.array([3, 0, 7])
    assert np.array_equal(tokens[order], sample(logits[order], **arguments, seeds=seeds[order], steps=steps[order]))
    same_row = np.repeat(logits[:1], 64, 0)
    assert len(set(sample(same_row, seeds=np.arange(64)).tolist())) > 10
    assert len(set(sample(same_row, steps=np.arange(64)).tolist())) > 10
    assert len(set(sample(same_row, seeds=5, steps=9).tolist())) == 1


def test_golden_stream():
    """Of 2^16 equal tokens the upper 16 bits of the random number are drawn."""
    path = Path(__file__).parents[1] / "data/philox_golden.txt"
    seeds, steps, bits = zip(*(line.split() for line in path.read_text().splitlines() if line[0] != "#"))
    tokens = sample(
        np.zeros((len(seeds), 2**16), np.float32),
        seeds=np.array([int(seed) for seed in seeds]),
        steps=np.array([int(step) for step in steps]),
    )
    assert tokens.tolist() == [int(word[:4], 16) for word in bits]


def test_frequencies():
    """4000 draws of one distribution: every token within 5 standard deviations."""
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.log(np.repeat(probabilities[None], 4000, 0)).astype(np.float32)
    counts = np.bincount(sample(logits, seeds=np.arange(4000)), minlength=4)
    assert (abs(counts - 4000 * probabilities) < 5 * np.sqrt(4000 * probabilities * (1 - probabilities))).all()
    assert set(sample(logits, seeds=np.arange(4000), top_k=2)) == {0, 1}
    assert set(sample(logits, seeds=np.arange(4000), top_p=0.9)) == {0, 1, 2}
    assert set(sample(logits, seeds=np.arange(4000), min_p=0.2)) == {0, 1, 2}


def test_rows_with_arguments_of_their_own(logits):
    tokens = sample(
        logits[:3],
        temperature=[0, 1.0, 2.0],
        top_k=np.array([0, 1, 1], np.int32),
        top_p=(1.0, 1.0, 0.5),
        min_p=np.zeros(3, np.float32),
        seeds=[1, 2, 3],
        steps=0,
    )
    assert np.array_equal(tokens, logits[:3].argmax(1))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_given_output(logits, dtype):
    out = np.zeros(16, dtype)[::2]
    assert sample(logits, temperature=0.0, out=out) is out
    assert np.array_equal(out, logits.argmax(1))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"temperature": None}, TypeError, "temperature is None"),
        ({"temperature": [1.0, -1.0]}, ValueError, "temperature"),
        ({"temperature": ["hot", "cold"]}, TypeError, "temperature is of type list: its items must be numbers"),
        ({"temperature": np.ones(3, np.float32)}, ValueError, "temperature"),
        ({"temperature": np.ones(2)}, TypeError, "temperature has dtype float64"),
        ({"top_k": np.ones(2, np.int64)}, ValueError, "top_k is int64"),
        ({"top_k": 1.5}, TypeError, "top_k is of type float: it must be an integer"),
        ({"top_k": 2**40}, ValueError, "top_k is 1099511627776: it must fit int32"),
        ({"min_p": 1.5}, ValueError, "min_p"),
        ({"seeds": np.ones(2, np.int32)}, ValueError, "seeds is int32"),
        ({"slots": [0, 2], "seeds": [1, 2]}, ValueError, r"slots of row 1 is 2: it must be in \[0, 2\)"),
        ({"slots": [0, 1], "seeds": [1, 2], "top_p": [1.0]}, ValueError, "seeds is int64|top_p is float32"),
        ({"status": np.ones(3, np.int32)}, ValueError, "status is int32"),
        ({"order": "alphabetical"}, ValueError, "order is 'alphabetical': it must be \"hf\" or"),
        ({"repetition_penalty": 0.0}, ValueError, "repetition_penalty of row 0 is 0"),
        ({"allowed": np.ones((2, 1), np.int32)}, ValueError, r"allowed is int32\[2, 1\]"),
        ({"bias_ids": np.ones((2, 1), np.int32)}, ValueError, "must be given together"),
        ({"out": np.ones(2, np.float32)}, ValueError, "(out|tokens) is float32"),
        ({"top_k": 1, "nonsense": 2}, TypeError, "incompatible function arguments"),
    ],
)
def test_bad_arguments(logits, arguments, error, match):
    with pytest.raises(error, match=match):
        sample(logits[:2], **arguments)


def test_slots_and_status(logits):
    logits[1, 3] = np.nan
    logits[2, 4] = np.inf
    logits[3] = -np.inf
    status = np.full(8, 99, np.int32)
    slots = np.array([2, 0, 1, 1, 0, 2, 2, 0], np.int32)
    temperature, seeds = np.array([0.5, 1.0, 2.0], np.float32), np.array([7, 8, 9])
    tokens = sample(logits, temperature=temperature, seeds=seeds, slots=slots, status=status)
    assert np.array_equal(tokens, sample(logits, temperature=temperature[slots], seeds=seeds[slots]))
    assert np.array_equal(tokens, sample(logits, temperature=temperature, seeds=seeds, slots=slots.tolist()))
    assert SamplingStatus(int(status[1])) == SamplingStatus.NAN
    assert SamplingStatus(int(status[2])) == SamplingStatus.INFINITY and tokens[2] == 4
    assert SamplingStatus(int(status[3])) == SamplingStatus.NO_CANDIDATE and tokens[3] == 0
    assert not status[[0, 4, 5, 6, 7]].any()


def test_processing(logits):
    rng = np.random.default_rng(2)
    allowed = rng.integers(-(2**31), 2**31, (8, 16)).astype(np.int32)
    prompt = rng.integers(-(2**31), 2**31, (8, 16)).astype(np.int32)
    counts = rng.integers(0, 4, (8, 500)).astype(np.int32)
    ids = rng.integers(-1, 500, (8, 6)).astype(np.int32)
    ids[:, 5] = ids[:, 0]
    values = rng.standard_normal((8, 6)).astype(np.float32)

    def bits(words):
        return np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, :500] != 0

    processed = logits.copy()
    for row in range(8):
        for token, value in zip(ids[row], values[row]):
            if token >= 0:
                processed[row, token] += value
    penalty, frequency, presence = np.float32(1.3), np.float32(0.2), np.float32(0.4)
    penalised = np.where(processed > 0, processed / penalty, processed * penalty)
    processed = np.where((counts > 0) | bits(prompt), penalised, processed)
    processed = np.where(counts > 0, processed - frequency * counts.astype(np.float32) - presence, processed)
    processed = np.where(bits(allowed), processed, np.float32(-np.inf))
    arguments = dict(
        allowed=allowed,
        bias_ids=ids,
        bias_values=values,
        output_counts=counts,
        prompt_bits=prompt,
        repetition_penalty=1.3,
        frequency_penalty=[0.2] * 8,
        presence_penalty=0.4,
    )
    for step in range(10):
        assert np.array_equal(sample(logits, **arguments, steps=step), sample(processed, steps=step))
    assert bits(allowed)[np.arange(8), sample(logits, **arguments)].all()


@pytest.mark.parametrize(("order", "kept"), [("hf", 2), ("joint", 3), ("vllm", 2), ("llamacpp", 2)])
def test_orders(order, kept):
    logits = np.log(np.repeat(np.array([[0.4, 0.3, 0.2, 0.1]]), 500, 0)).astype(np.float32)
    tokens = sample(logits, top_k=3, top_p=0.75, order=order, seeds=np.arange(500))
    assert set(tokens.tolist()) == set(range(kept))


def test_typical_p():
    """Of 0.3 and many tokens of 0.007 these are nearer to the entropy."""
    logits = np.log(np.array([0.3] + [0.007] * 100)).astype(np.float32)
    tokens = sample(np.repeat(logits[None], 300, 0), typical_p=0.3, seeds=np.arange(300))
    assert 0 not in tokens.tolist()
    tokens = sample(np.repeat(logits[None], 300, 0), typical_p=[1.0] * 300, seeds=np.arange(300))
    assert 0 in tokens.tolist()


def test_bad_logits(logits):
    with pytest.raises(ValueError, match="logits is float32"):
        sample(logits[0])
    with pytest.raises(ValueError, match="logits is None"):
        sample(None)
    assert tw.sampling.sample is sample


def test_outputs(logits):
    outputs = SamplingOutputs(
        kept=np.zeros((8, 16), np.int32),
        probabilities=np.zeros((8, 500), np.float32),
        masked_logits=np.zeros((8, 500), np.float32),
        raw=LogProbs(chosen=np.zeros(8, np.float32), ranks=np.zeros(8, np.int32)),
        processed=LogProbs(best=np.zeros((8, 3), np.float32), best_ids=np.zeros((8, 3), np.int32)),
    )
    tokens = sample(logits, top_k=20, seeds=np.arange(8), outputs=outputs)
    assert np.array_equal(tokens, sample(logits, top_k=20, seeds=np.arange(8)))
    order = np.argsort(-logits, axis=1, kind="stable")
    kept = np.zeros(logits.shape, bool)
    np.put_along_axis(kept, order[:, :20], True, 1)
    bits = np.unpackbits(outputs.kept.view(np.uint8), axis=1, bitorder="little")
    assert np.array_equal(bits[:, :500].astype(bool), kept)
    p = np.where(kept, np.exp(logits.astype(np.float64)), 0)
    p /= p.sum(1, keepdims=True)
    assert np.abs(outputs.probabilities - p).max() < 1e-6
    assert np.array_equal(outputs.masked_logits, np.where(kept, logits, -np.inf))
    raw = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    rows = np.arange(8)
    assert np.abs(outputs.raw.chosen - raw[rows, tokens]).max() < 1e-5
    assert np.array_equal(outputs.raw.ranks, 1 + (logits > logits[rows, tokens][:, None]).sum(1))
    assert np.array_equal(outputs.processed.best_ids, order[:, :3])
    assert np.abs(np.exp(outputs.processed.best) - np.take_along_axis(p, order[:, :3], 1)).max() < 1e-6


def test_probabilities():
    p = np.array([[0.0, 2.0, 6.0, np.nan, -1.0]], np.float32).repeat(4000, 0)
    status = np.zeros(4000, np.int32)
    counts = np.bincount(sample(p, input="probabilities", seeds=np.arange(4000), status=status), minlength=5)
    assert counts[0] == counts[3] == counts[4] == 0
    assert abs(counts[1] - 1000) < 150
    assert (status == SamplingStatus.NAN | SamplingStatus.NEGATIVE).all()
    with pytest.raises(tw.InvalidArgument, match="temperature of row 0 is 2"):
        sample(p, input="probabilities", temperature=2.0)


def test_top_k(logits):
    values, indices = top_k(logits, 7)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :7]
    assert indices.dtype == np.int32
    assert np.array_equal(indices, order)
    assert np.array_equal(values, np.take_along_axis(logits, order, 1))
    wide = np.zeros((8, 600), np.int64)
    top_k(logits, 600, indices=wide)
    assert (wide[:, 500:] == -1).all()
    with pytest.raises(tw.InvalidArgument, match="k is 0"):
        top_k(logits, 0)
