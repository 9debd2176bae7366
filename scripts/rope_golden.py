#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/rope_axes_golden.txt: rotations by positions with three axes (time, height, width), by the code of
Qwen2-VL and Qwen3-VL in transformers. Needs torch and transformers 5; the file was made with 5.17.

    scripts/rope_golden.py > tests/data/rope_axes_golden.txt
"""

import importlib

import torch

DIM, THETA = 32, 1000000.0
# An image of 2 x 2 patches between words.
POSITIONS = [[0, 1, 2, 2, 2, 2, 4], [0, 1, 2, 2, 3, 3, 4], [0, 1, 2, 3, 2, 3, 4]]

MODELS = [
    ("qwen2_vl", "Qwen2VLRotaryEmbedding", "Qwen2VLTextConfig", [4, 6, 6]),
    ("qwen3_vl", "Qwen3VLTextRotaryEmbedding", "Qwen3VLTextConfig", [6, 5, 5]),
]


def line(name, values):
    print(name, *(f"{value:.9g}" for value in values))


def main():
    x = torch.randn((len(POSITIONS[0]), DIM), generator=torch.Generator().manual_seed(1))
    print(f"# Rotations of one head of {DIM} elements by scripts/rope_golden.py: the model, its sections and theta, positions by")
    print("# axis, the head of each token, and the same rotated.")
    for module, embedding_name, config_name, sections in MODELS:
        modeling = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
        configuration = importlib.import_module(f"transformers.models.{module}.configuration_{module}")
        config = getattr(configuration, config_name)(
            hidden_size=DIM,
            num_attention_heads=1,
            head_dim=DIM,
            rope_parameters={"rope_type": "default", "rope_theta": THETA, "mrope_section": sections},
        )
        head = x[None, None]
        cosine, sine = getattr(modeling, embedding_name)(config)(head, torch.tensor(POSITIONS)[:, None])
        rotated, _ = modeling.apply_rotary_pos_emb(head, head, cosine, sine)
        print("model", module, *sections, int(THETA))
        for axis in POSITIONS:
            print("positions", *axis)
        for token in x:
            line("x", token.tolist())
        for token in rotated[0, 0]:
            line("rotated", token.tolist())


if __name__ == "__main__":
    main()
