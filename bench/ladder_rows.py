# SPDX-License-Identifier: Apache-2.0
"""The rows of ladder.py: what each batch is, by sets. Lengths that are drawn are the same each time."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Row:
    name: str
    kind: str
    q_lens: list[int]
    kv_lens: list[int]  # with the prefix
    qo_heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    page_size: int = 16
    causal: bool = True
    prefix: int = 0  # tokens that all requests share
    window: int = 0  # keys that a query sees at most, the one at its own position among them; 0: all before it
    sinks: bool = False  # a learned logit a head in the denominator of each row
    kv_dtype: str = "bf16"  # or f8e4m3
    # Times the row once more under limits that leave room for a prefill of so many tokens, as a graph for mixed
    # batches has them.
    prefill_limit: int = 0
    zeros: bool = False  # queries, keys and values

    def line(self) -> str:
        """What the program reads."""
        fields = [self.name, self.kind, self.qo_heads, self.kv_heads, self.head_dim, self.page_size, int(self.causal),
                  len(self.q_lens), *self.q_lens, *self.kv_lens]  # fmt: skip
        options = {"prefix": self.prefix, "window": self.window, "sinks": int(self.sinks),
                   "kv_dtype": self.kv_dtype if self.kv_dtype != "bf16" else "",
                   "prefill_limit": self.prefill_limit, "zeros": int(self.zeros)}  # fmt: skip
        return " ".join(map(str, fields + [f"{name}={value}" for name, value in options.items() if value]))

    def kv_bytes(self) -> int:
        """Of the keys and values that a run reads, each once."""
        seen = [min(kv_len, q_len + self.window - 1) if self.window else kv_len
                for q_len, kv_len in zip(self.q_lens, self.kv_lens)]  # fmt: skip
        tokens = sum(seen) - self.prefix * (len(seen) - 1)
        return 2 * tokens * self.kv_heads * self.head_dim * (2 if self.kv_dtype == "bf16" else 1)


def prefill_row(name: str, q_lens: list[int], **options) -> Row:
    return Row(name, "prefill", q_lens, options.pop("kv_lens", q_lens), **options)


def decode_row(name: str, kv_lens: list[int], q_len: int = 1, **options) -> Row:
    return Row(name, "decode", [q_len] * len(kv_lens), kv_lens, **options)


def zipf_lens(rng: np.random.Generator, requests: int, mean: int) -> list[int]:
    """Few long requests, many short ones."""
    ranks = np.minimum(rng.zipf(1.3, size=requests), 4000).astype(float)
    return np.clip(ranks / ranks.mean() * mean, 16, 32768).astype(int).tolist()


def ladder() -> list[Row]:
    """Prefill, decode, mixed batches, shared prefixes."""
    rng = np.random.default_rng(7)  # lengths are drawn in the order of the rows
    rows = [prefill_row(f"prefill_{requests}x{length}", [length] * requests)
            for requests, length in ((16, 1024), (4, 4096), (1, 16384))]  # fmt: skip
    rows += [
        prefill_row("prefill_16384_noncausal_mha", [16384], kv_heads=32, causal=False),
        prefill_row("prefill_ragged16", rng.integers(128, 8192, size=16).tolist()),
        prefill_row("prefill_1x16384_page1", [16384], page_size=1),
        prefill_row("chunk_2048_on_16k", [2048], kv_lens=[18432]),
    ]
    for requests, length in ((1, 1024), (1, 32768), (16, 4096), (64, 4096), (128, 2048)):
        rows.append(decode_row(f"decode_{requests}x{length}", [length] * requests))
    rows += [
        decode_row("decode_128_uniform512_2048", rng.integers(512, 2048, size=128).tolist()),
        decode_row("decode_64_zipf", zipf_lens(rng, 64, 4096)),
        decode_row("decode_16x4096_mha", [4096] * 16, kv_heads=32),
        decode_row("decode_64x8192_8q1kv", [8192] * 64, qo_heads=8, kv_heads=1),
        decode_row("decode_64x4096_page1", [4096] * 64, page_size=1),
        decode_row("spec_32x4_on_4096", [4096] * 32, q_len=4),
        Row("mixed_64dec4096_1x2048on8192", "mixed", [1] * 64 + [2048], [4096] * 64 + [8192]),
        decode_row("decode_256_uniform512_2048", rng.integers(512, 2048, size=256).tolist()),
    ]
    for requests, prefix in ((16, 8192), (64, 8192), (64, 32768)):
        rows.append(Row(f"shared_{requests}_on_{prefix}", "levels", [1] * requests, [prefix + 256] * requests,
                        prefix=prefix))  # fmt: skip
    return rows


def extra() -> list[Row]:
    """An fp8 cache, learned sinks, windows; and the ladder's decode rows under a mixed batch's limits."""
    rows = [
        decode_row("decode_64x4096_fp8", [4096] * 64, kv_dtype="f8e4m3"),
        prefill_row("prefill_4x4096_sinks", [4096] * 4, sinks=True),
        decode_row("decode_64x4096_sinks", [4096] * 64, sinks=True),
        prefill_row("prefill_1x16384_window1024", [16384], window=1024),
        decode_row("decode_64x4096_window1024", [4096] * 64, window=1024),
    ]
    return rows + [dataclasses.replace(row, prefill_limit=2048) for row in ladder() if row.kind == "decode"]


def growth() -> list[Row]:
    """One decoding request of 1k to 128k tokens, 1 to 1024 requests of 1k, one causal prefill of 1k to 128k tokens."""
    lengths = [1024 << i for i in range(8)]
    return (
        [decode_row(f"decode_1x{length}", [length]) for length in lengths]
        + [decode_row(f"decode_{1 << i}x1024", [1024] * (1 << i)) for i in range(1, 11)]
        + [prefill_row(f"prefill_1x{length}", [length]) for length in lengths]
    )


def ladder_of(head_dim: int) -> list[Row]:
    """The ladder with other heads."""
    return [dataclasses.replace(row, name=f"{row.name}_d{head_dim}", head_dim=head_dim) for row in ladder()]


def zeros() -> list[Row]:
    """Prefill and the mixed batch with inputs of zeros, which take little power to multiply: what its limit costs."""
    return [dataclasses.replace(row, name=f"{row.name}_zeros", zeros=True) for row in ladder()
            if row.kind in ("prefill", "mixed")]  # fmt: skip


SETS = {
    "ladder": ladder,
    "extra": extra,
    "head_dim_64": lambda: ladder_of(64),
    "head_dim_256": lambda: ladder_of(256),
    "growth": growth,
    "zeros": zeros,
}
