# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's norms, activation, RoPE and cache write on what ops_bench does, in bf16: GB/s of the bytes that must be read and
written, in a CUDA graph of calls on data that no cache holds. Needs torch and flashinfer.
"""

import torch

ROUND = 768 << 20  # bytes that calls go through before the first one's data comes again
CALLS = 24
HEAD_DIM = 128
PAGE = 16


def microseconds(call, sets: int) -> float:
    for i in range(sets):
        call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(CALLS):
            call(i % sets)
    best = float("inf")
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) * 1e3 / CALLS)
    return best


def cases(flashinfer, tokens: int, hidden: int, sets: int):
    def rows(*shape):
        return [torch.randn(tokens, *shape, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]

    weight = torch.ones(hidden, device="cuda", dtype=torch.bfloat16)
    heads = hidden // HEAD_DIM
    positions = torch.arange(tokens, device="cuda", dtype=torch.int32)

    def rms_norm():
        x, out = rows(hidden), rows(hidden)
        return lambda i: flashinfer.norm.rmsnorm(x[i], weight, out=out[i])

    def fused_add_rms_norm():
        x, residual = rows(hidden), rows(hidden)
        return lambda i: flashinfer.norm.fused_add_rmsnorm(x[i], residual[i], weight)

    def layer_norm():
        x = rows(hidden)
        gamma, beta = (torch.ones(hidden, device="cuda", dtype=torch.float32) for _ in range(2))
        return lambda i: flashinfer.norm.layernorm(x[i], gamma, beta)

    def act_and_mul():
        x, out = rows(2 * hidden), rows(hidden)
        return lambda i: flashinfer.activation.silu_and_mul(x[i], out=out[i])

    def apply_rope():
        # Queries and keys are rotated together: half of the heads each.
        q, k = rows(heads // 2, HEAD_DIM), rows(heads // 2, HEAD_DIM)
        return lambda i: flashinfer.rope.apply_rope_pos_ids(q[i], k[i], positions)

    def write_kv_cache():
        k, v = rows(heads, HEAD_DIM), rows(heads, HEAD_DIM)
        pages = tokens // PAGE
        shape = (pages, 2, PAGE, heads, HEAD_DIM)
        cache = [torch.zeros(shape, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]
        indices = torch.randperm(pages, device="cuda", dtype=torch.int32)
        indptr = torch.tensor([0, pages], device="cuda", dtype=torch.int32)
        last = torch.tensor([PAGE], device="cuda", dtype=torch.int32)
        batch = torch.zeros(tokens, device="cuda", dtype=torch.int32)
        return lambda i: flashinfer.append_paged_kv_cache(
            k[i], v[i], batch, positions, cache[i], indices, indptr, last
        )

    return {"rms_norm": (2, rms_norm), "fused_add_rms_norm": (4, fused_add_rms_norm), "layer_norm": (2, layer_norm),
            "act_and_mul": (3, act_and_mul), "apply_rope": (2, apply_rope), "write_kv_cache": (4, write_kv_cache)}  # fmt: skip


def main() -> None:
    import flashinfer

    for name in cases(flashinfer, 16, 128, 0):
        for megabytes in (64, 256):
            for hidden in (4096, 8192):
                rows = cases(flashinfer, 16, hidden, 0)[name][0]
                tokens = (megabytes << 20) // (rows * hidden * 2) // PAGE * PAGE
                size = tokens * rows * hidden * 2
                sets = ROUND // size
                try:
                    us = microseconds(cases(flashinfer, tokens, hidden, sets)[name][1](), sets)
                except Exception as error:  # what FlashInfer does not take is a line of the table too
                    print(f"{name:20} {megabytes:4} MB  hidden {hidden}  {type(error).__name__}: {str(error)[:100]}", flush=True)
                    break
                print(f"{name:20} {megabytes:4} MB  hidden {hidden} {us:9.2f} us {size * 1e-3 / us:8.0f} GB/s", flush=True)


if __name__ == "__main__":
    main()
