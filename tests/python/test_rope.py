# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding, against NumPy in float64 and against transformers where it is installed."""

import math

import ml_dtypes
import numpy as np
import pytest
import tilewright as tw

DIM, THETA = 64, 500000.0
PLAIN = THETA ** (-np.arange(DIM // 2) / (DIM // 2))
LONG_FACTORS = np.linspace(1, 30, DIM // 2)


def llama3(frequencies, factor, low, high, length):
    turns = length * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.where(turns < low, frequencies / factor, frequencies * (kept + (1 - kept) / factor))


def yarn(frequencies, factor, length, fast, slow):
    low, high = (DIM * math.log(length / (n * 2 * math.pi)) / (2 * math.log(THETA)) for n in (fast, slow))
    ramp = np.clip((np.arange(DIM // 2) - math.floor(low)) / (math.ceil(high) - math.floor(low)), 0, 1)
    return frequencies * (ramp / factor + 1 - ramp)


SCALINGS = {
    "none": (None, PLAIN, 1.0),
    "ntk": (tw.NtkScaling(factor=4), (THETA * 4 ** (DIM / (DIM - 2))) ** (-np.arange(0, DIM, 2) / DIM), 1.0),
    "llama3": (tw.Llama3Scaling(factor=32), llama3(PLAIN, 32, 1, 4, 8192), 1.0),
    "yarn": (
        tw.YarnScaling(factor=4, original_max_position=32768),
        yarn(PLAIN, 4, 32768, 32, 1),
        0.1 * math.log(4) + 1,
    ),
    "yarn with an attention factor": (
        tw.YarnScaling(factor=40, beta_fast=16, beta_slow=2, attention_factor=0.5),
        yarn(PLAIN, 40, 4096, 16, 2),
        0.5,
    ),
    "longrope": (tw.LongRopeScaling(factors=LONG_FACTORS, attention_factor=1.19), PLAIN / LONG_FACTORS, 1.19),
}


def rotated(x, cosine, sine, interleaved=False):
    """x [tokens, heads, dim] with cosines and sines [tokens, pairs]."""
    out = x.astype(np.float64)
    pairs = cosine.shape[1]
    cosine, sine = cosine[:, None], sine[:, None]
    first = np.s_[..., 0 : 2 * pairs : 2] if interleaved else np.s_[..., :pairs]
    second = np.s_[..., 1 : 2 * pairs : 2] if interleaved else np.s_[..., pairs : 2 * pairs]
    a, b = out[first].copy(), out[second].copy()
    out[first], out[second] = a * cosine - b * sine, b * cosine + a * sine
    return out


@pytest.fixture
def x():
    return np.random.default_rng(6).standard_normal((6, 3, DIM + 8)).astype(np.float32)


POSITIONS = np.array([0, 1, 77, 4095, 131071, 9])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("name", SCALINGS)
def test_scaling(x, name, interleaved):
    scaling, frequencies, amplitude = SCALINGS[name]
    angles = POSITIONS[:, None] * 0.5 * frequencies
    expected = rotated(x, amplitude * np.cos(angles), amplitude * np.sin(angles), interleaved)
    out = tw.apply_rope(
        x, POSITIONS, dim=DIM, theta=THETA, position_scale=0.5, scaling=scaling, interleaved=interleaved
    )
    np.testing.assert_allclose(out, expected, atol=2e-5)


def axis_of_pairs(sections, interleaved):
    axes, pairs = len(sections), sum(sections)
    if not interleaved:
        return np.repeat(np.arange(axes), sections)
    return np.array([i % axes if i < axes * sections[i % axes] else 0 for i in range(pairs)])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("sections", [(8, 12, 12), (12, 10, 10), (5, 6, 10, 11), (32,)])
def test_axes(x, sections, interleaved):
    random = np.random.default_rng(7)
    positions = random.integers(0, 60, (len(sections), 6))
    angles = positions[axis_of_pairs(sections, interleaved)].T * PLAIN
    expected = rotated(x, np.cos(angles), np.sin(angles))
    arguments = dict(sections=sections, interleaved_sections=interleaved)
    np.testing.assert_allclose(
        tw.apply_rope(x, positions, dim=DIM, theta=THETA, **arguments), expected, atol=2e-5
    )
    all_angles = np.arange(60)[:, None] * PLAIN
    table = np.concatenate([np.cos(all_angles), np.sin(all_angles)], 1)
    for dtype, tolerance in ((np.float32, 2e-5), (ml_dtypes.bfloat16, 2e-2)):
        out = tw.apply_rope_with_cos_sin_cache(x, positions.tolist(), table.astype(dtype), **arguments)
        np.testing.assert_allclose(out, expected, atol=tolerance)


def test_table_of_one_axis_in_place(x):
    angles = np.arange(60)[:, None] * PLAIN
    table = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    positions = np.array([3, 59, 0, 7, 7, 1], np.int32)
    expected = rotated(x, np.cos(angles)[positions], np.sin(angles)[positions], True)
    assert tw.apply_rope_with_cos_sin_cache(x, positions, table, interleaved=True, out=x) is x
    np.testing.assert_allclose(x, expected, atol=2e-5)


def test_spec():
    specs = [tw.RopeSpec(scaling=scaling) for scaling, _, _ in SCALINGS.values()]
    for i, a in enumerate(specs):
        for j, b in enumerate(specs):
            assert (a == b) == (i == j)
    assert specs[1] == tw.RopeSpec(scaling=tw.NtkScaling(factor=4))
    assert hash(specs[1]) == hash(tw.RopeSpec(scaling=tw.NtkScaling(factor=4)))
    assert specs[0] != "rope"
    assert specs[0].scaling is None
    assert specs[1].scaling.factor == 4
    assert specs[2].scaling.original_max_position == 8192
    assert not specs[3].scaling.attention_factor
    assert specs[5].scaling.factors == list(LONG_FACTORS)
    assert tw.Variant(rope=specs[3]) == tw.Variant(rope=specs[3])
    assert tw.Variant(rope=specs[3]) != tw.Variant(rope=specs[4])


def test_errors(x):
    with pytest.raises(ValueError, match="factor is -1"):
        tw.apply_rope(x, POSITIONS, scaling=tw.NtkScaling(factor=-1))
    with pytest.raises(ValueError, match="factors has 2 elements: it must have dim / 2, 36"):
        tw.apply_rope(x, POSITIONS, scaling=tw.LongRopeScaling(factors=[1, 2]))
    with pytest.raises(ValueError, match="sections.pairs sum to 3"):
        tw.apply_rope(x, POSITIONS, sections=[1, 2])
    with pytest.raises(ValueError, match="sections has 5 axes"):
        tw.apply_rope(x, POSITIONS, sections=[1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match=r"positions is int64\[6\]"):
        tw.apply_rope(x, POSITIONS, sections=[12, 12, 12])
    with pytest.raises(ValueError, match="positions has 4095 for token 3"):
        tw.apply_rope_with_cos_sin_cache(x, POSITIONS, np.zeros((100, 72), np.float32))
    with pytest.raises(TypeError, match="cos_sin_cache is None"):
        tw.apply_rope_with_cos_sin_cache(x, POSITIONS, None)
    with pytest.raises(TypeError):
        tw.RopeSpec(scaling="linear")


class TestTransformers:
    """The rotations of transformers' models; its angles are float32, so positions are small."""

    positions = np.array([0, 1, 2, 40, 3, 77])

    def embedding(self, module, name, config_name, parameters):
        torch = pytest.importorskip("torch")
        pytest.importorskip("transformers", minversion="5.0")
        modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
        configuration = pytest.importorskip(f"transformers.models.{module}.configuration_{module}")
        config = getattr(configuration, config_name)(
            hidden_size=DIM * 4,
            num_attention_heads=4,
            head_dim=DIM,
            max_position_embeddings=131072,
            rope_parameters={"rope_theta": THETA, **parameters},
        )
        return torch, modeling, getattr(modeling, name)(config)

    def check(self, torch, modeling, embedding, x, positions, out):
        head = torch.from_numpy(x[:, :, :DIM].copy()).transpose(0, 1)[None]
        cosine, sine = embedding(head, torch.from_numpy(positions))
        expected, _ = modeling.apply_rotary_pos_emb(head, head, cosine, sine)
        np.testing.assert_allclose(out, expected[0].transpose(0, 1).numpy(), atol=1e-4)

    @pytest.mark.parametrize(
        ("parameters", "arguments"),
        [
            ({"rope_type": "default"}, {}),
            ({"rope_type": "linear", "factor": 4.0}, dict(position_scale=0.25)),
            (
                {"rope_type": "dynamic", "factor": 3.0},
                dict(scaling=tw.NtkScaling(factor=1)),  # not longer than what it was trained on
            ),
            (
                {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
                dict(scaling=tw.Llama3Scaling()),
            ),
            (
                {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
                dict(scaling=tw.YarnScaling(factor=4, original_max_position=32768)),
            ),
            (
                {
                    "rope_type": "yarn",
                    "factor": 40.0,
                    "beta_fast": 20,
                    "beta_slow": 2,
                    "truncate": False,
                    "attention_factor": 0.8,
                    "original_max_position_embeddings": 4096,
                },
                dict(
                    scaling=tw.YarnScaling(factor=40, beta_fast=20, beta_slow=2, attention_factor=0.8, truncate=False)
                ),
            ),
        ],
        ids=["default", "linear", "dynamic", "llama3", "yarn", "yarn in full"],
    )
    def test_llama(self, x, parameters, arguments):
        torch, modeling, embedding = self.embedding("llama", "LlamaRotaryEmbedding", "LlamaConfig", parameters)
        out = tw.apply_rope(x[:, :, :DIM], self.positions, theta=THETA, **arguments)
        self.check(torch, modeling, embedding, x, self.positions[None], out)

    @pytest.mark.parametrize(
        ("module", "name", "config", "sections"),
        [
            ("qwen2_vl", "Qwen2VLRotaryEmbedding", "Qwen2VLTextConfig", [8, 12, 12]),
            ("qwen3_vl", "Qwen3VLTextRotaryEmbedding", "Qwen3VLTextConfig", [12, 10, 10]),
        ],
    )
    def test_axes(self, x, module, name, config, sections):
        parameters = {"rope_type": "default", "mrope_section": sections}
        torch, modeling, embedding = self.embedding(module, name, config, parameters)
        positions = np.random.default_rng(8).integers(0, 90, (3, 6))
        arguments = dict(sections=sections, interleaved_sections=module == "qwen3_vl")
        out = tw.apply_rope(x[:, :, :DIM], positions, theta=THETA, **arguments)
        self.check(torch, modeling, embedding, x, positions[:, None], out)
