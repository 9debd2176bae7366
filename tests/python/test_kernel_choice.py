# SPDX-License-Identifier: Apache-2.0
"""Which CUDA kernel an attention takes, and what a batch costs: no GPU needed."""

import numpy as np
import pytest
import tilewright as tw


def attention(**changes):
    return tw.Attention(**{"num_qo_heads": 32, "num_kv_heads": 8, "head_dim": 128, **changes})


def test_kernels_by_limits():
    decode = tw.choose_kernels(attention(), tw.limits_of([(64, 1, 4096)]), "sm_90a")
    assert decode.requests.kernel == "decode"
    assert decode.requests.name == "decode_bf16_bf16_d128_g4"
    assert (decode.requests.tile_rows, decode.requests.key_stages, decode.requests.heads_together) == (16, 0, 8)
    assert decode.requests.not_decode == decode.requests.not_hopper == []
    assert decode.rows.kernel == "hopper"
    assert "decode" in repr(decode.requests)
    prefill = tw.choose_kernels(attention(), tw.limits_of([(1, 512, 4096)]), "sm_90a").requests
    assert (prefill.kernel, prefill.tile_rows, prefill.block_tokens, prefill.key_stages) == ("hopper", 128, 128, 2)
    assert "limits.q_len is 512" in prefill.not_decode[0]
    assert prefill.not_hopper == []


def test_what_falls_back_says_why():
    limits = tw.limits_of([(1, 512, 4096)])
    choice = tw.choose_kernels(attention(kv_dtype="float8_e4m3fn"), limits, "sm_90a").requests
    assert choice.kernel == "portable"
    assert any("kv_dtype is float8_e4m3fn" in reason for reason in choice.not_hopper)
    assert tw.choose_kernels(attention(dtype="float32"), limits, "sm_80").requests.kernel == "scalar"
    with pytest.raises(tw.Error, match="sm_80: head_dim is 264"):
        tw.choose_kernels(attention(head_dim=264), limits, "sm_80")
    with pytest.raises(tw.InvalidArgument, match="arch is volta"):
        tw.choose_kernels(attention(), limits, "volta")


def test_work():
    work = tw.explain_batch(attention(), [(64, 1, 4096), (1, 2048, 8192)], gpu="h200")
    assert (work.requests, work.q_tokens, work.kv_tokens) == (65, 64 + 2048, 65 * 4096 + 4096)
    assert work.a_items > 0
    assert work.b_items > 0
    assert work.a_share + work.b_share == pytest.approx(1)
    assert work.kv_bytes == work.kv_tokens * 8 * 256 * 2
    assert work.stats.kv_bytes > work.kv_bytes
    assert work.bound_us == max(work.memory_us, work.compute_us)
    assert work.box_tokens == 16
    assert "65 requests" in repr(work)


def test_shared_keys():
    batch = [(64, 1, 8448, 8192), (1, 1, 300)]
    assert tw.limits_of(batch).levels == 2
    work = tw.explain_batch(attention(), batch)
    assert work.kv_tokens == 8192 + 64 * 256 + 300
    assert work.kv_bytes == work.kv_tokens * 8 * 256 * 2
    with pytest.raises(tw.InvalidArgument, match=r"batch\[0\].shared_len is 3: it must be in \[0, 2\]"):
        tw.limits_of([(1, 1, 2, 3)])


def test_models_and_parameters():
    (h200,) = (model for model in tw.gpu_models() if model.name == "h200")
    assert "132 SMs" in repr(h200)
    slow = tw.GpuModel(arch="sm_80", num_sms=10, bytes_per_second=1e9, operations_per_second=1e12)
    prefix = attention(variant=tw.variants.prefix_lm())
    work = tw.explain_batch(prefix, [(2, 64, 64)], gpu=slow, params={"prefix_len": np.array([64, 0], np.int32)})
    assert work.pairs == 32 * (64 * 64 + 64 * 65 // 2)
    assert work.memory_us == pytest.approx((work.kv_bytes + work.qo_bytes) / 1e3)
    with pytest.raises(tw.InvalidArgument, match="prefix_len"):
        tw.explain_batch(prefix, [(2, 64, 64)])


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"batch\[1\] is \(1, 2\)"):
        tw.limits_of([(1, 1, 1), (1, 2)])
    with pytest.raises(TypeError, match="batch is"):
        tw.limits_of("64x1:4096")
    with pytest.raises(tw.InvalidArgument, match=r"batch\[0\].q_len is 0"):
        tw.limits_of([(1, 0, 1)])
    with pytest.raises(tw.InvalidArgument, match="gpu is tpu"):
        tw.explain_batch(attention(), [(1, 1, 1)], gpu="tpu")
    with pytest.raises(TypeError, match="gpu is"):
        tw.explain_batch(attention(), [(1, 1, 1)], gpu=5)
    with pytest.raises(TypeError, match="limits is"):
        tw.explain_batch(attention(), [(1, 1, 1)], limits=5)


def test_only_what_plans_of_limits_launch_is_compiled():
    reports = tw.compile_kernels(
        attention(num_qo_heads=2, num_kv_heads=1, head_dim=64), archs=["sm_80"], ops=False, limits=tw.limits_of([(1, 100, 100)])
    )
    assert [report.kernel for report in reports] == ["attention_bf16_bf16_d64_g2", "plan_1"]
