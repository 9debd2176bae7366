# SPDX-License-Identifier: Apache-2.0
"""Speculative verification from Python: the forms of its arguments, and what it promises."""

import ml_dtypes
import numpy as np
import pytest
import tilewright as tw
from tilewright.speculative import tree_links, verify_chain, verify_tree, verify_workspace_size

REQUESTS, DRAFTS, VOCABULARY = 6, 3, 40


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def target(rng):
    return rng.standard_normal((REQUESTS, DRAFTS + 1, VOCABULARY)).astype(np.float32)


@pytest.fixture
def draft_tokens(target):
    tokens = target[:, :DRAFTS].argmax(2).astype(np.int32)
    tokens[1, 1] = (tokens[1, 1] + 1) % VOCABULARY
    tokens[2, 0] = (tokens[2, 0] + 1) % VOCABULARY
    return tokens


def softmax(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_greedy(target, draft_tokens, dtype):
    target = target.astype(dtype)
    best = target.astype(np.float32).argmax(2)
    draft_tokens[:] = best[:, :DRAFTS]
    draft_tokens[1, 1] = (draft_tokens[1, 1] + 1) % VOCABULARY
    draft_tokens[2, 0] = (draft_tokens[2, 0] + 1) % VOCABULARY
    tokens, emitted, accepted = verify_chain(target, draft_tokens, temperature=0)
    assert tokens.dtype == emitted.dtype == accepted.dtype == np.int32
    assert emitted.tolist() == [3, 1, 0, 3, 3, 3]
    assert accepted.tolist() == [3, 2, 2, 3, 3, 3]
    for request, count in enumerate(emitted):
        assert tokens[request, : count + 1].tolist() == best[request, : count + 1].tolist()
        assert (tokens[request, count + 1 :] == -1).all()


def test_counts(target, draft_tokens):
    for counts in ([0, 1, 2, 3, 0, 1], np.array([0, 1, 2, 3, 0, 1], np.int32)):
        tokens, emitted, _ = verify_chain(target, draft_tokens, counts, temperature=0)
        assert emitted.tolist() == [0, 1, 0, 3, 0, 1]
        assert tokens[0].tolist() == [target[0, 0].argmax(), -1, -1, -1]


def test_a_request_does_not_depend_on_others(target, draft_tokens):
    seeds, steps = np.arange(REQUESTS) + 100, np.arange(REQUESTS) % 3
    arguments = dict(temperature=0.8, top_k=20, top_p=0.95)
    tokens, _, _ = verify_chain(target, draft_tokens, **arguments, seeds=seeds, steps=steps)
    order = np.array([3, 0, 5])
    again, _, _ = verify_chain(
        target[order], draft_tokens[order], **arguments, seeds=seeds[order], steps=steps[order]
    )  # fmt: skip
    assert np.array_equal(again, tokens[order])


@pytest.mark.parametrize("with_draft", [True, False])
def test_frequencies(rng, with_draft):
    """20000 first tokens of one target: every one within 5 standard deviations."""
    requests = 20000
    target, draft = rng.standard_normal((2, 1, 1, 6)).astype(np.float32)
    p, q = softmax(target[0, 0].astype(np.float64)), softmax(draft[0, 0].astype(np.float64))
    tokens, emitted, _ = verify_chain(
        np.repeat(np.repeat(target, 2, 1), requests, 0),
        rng.choice(6, size=(requests, 1), p=q).astype(np.int64),
        draft=np.repeat(draft, requests, 0) if with_draft else None,
        seeds=np.arange(requests),
    )
    counts = np.bincount(tokens[:, 0], minlength=6)
    assert (abs(counts - requests * p) < 5 * np.sqrt(requests * p * (1 - p))).all()
    share = np.minimum(p, q).sum() if with_draft else (p * q).sum()
    assert abs(emitted.mean() - share) < 5 * np.sqrt(share * (1 - share) / requests)


def test_probabilities_and_coins():
    target = np.array([[[0.5, 0.25, 0.25], [0, 0, 1]]], np.float32)
    draft = np.array([[[0.25, 0.5, 0.25]]], np.float32)

    def verify(token, coin, final_coin):
        tokens, _, _ = verify_chain(
            target,
            np.array([[token]]),
            draft=draft,
            input="probabilities",
            coins=np.array([[coin]], np.float32),
            final_coins=np.array([final_coin], np.float32),
        )
        return tokens[0].tolist()

    assert verify(0, 0.999, 0.5) == [0, 2]  # p > q
    assert verify(1, 0.49, 0.5) == [1, 2]  # p / q = 1 / 2
    assert verify(1, 0.51, 0.999) == [0, -1]  # max(0, p - q) is at token 0 alone


def test_masks(target, draft_tokens):
    """Of requests, as sample has them, and of positions."""
    allowed = np.full((REQUESTS, 2), 1 << 7, np.int32)
    allowed[:, 1] = 0
    tokens, _, _ = verify_chain(target, draft_tokens, allowed=allowed)
    assert (tokens[:, 0] == 7).all()
    by_position = np.repeat(allowed[:, None], DRAFTS + 1, 1)
    by_position[:, 1] = [0, 1 << 3]
    draft_tokens[:, 0] = 7
    tokens, _, _ = verify_chain(target, draft_tokens, allowed=by_position)
    assert (tokens[:, 0] == 7).all()
    assert (tokens[:, 1] == 35).all()


def test_tree():
    # 0 -> 1, 2; 2 -> 3
    next_token, next_sibling = tree_links(np.array([[-1, 0, 0, 2]]))
    assert next_token.dtype == np.int64
    assert next_token.tolist() == [[1, -1, 3, -1]]
    assert next_sibling.tolist() == [[-1, 2, -1, -1]]
    target = np.zeros((1, 4, 5), np.float32)
    for node, token in enumerate([4, 0, 3, 1]):
        target[0, node, token] = 9
    tree = (np.array([[0, 2, 4, 3]]), next_token, next_sibling)
    tokens, nodes, accepted = verify_tree(target, *tree, temperature=0)
    assert tokens.tolist() == [[4, 3, 1, -1]]
    assert nodes.tolist() == [[0, 2, 3, -1]]
    assert accepted.tolist() == [2]
    tokens, nodes, accepted = verify_tree(target, *tree, temperature=0, length=2)
    assert tokens.tolist() == [[4, 3]]
    assert nodes.tolist() == [[0, 2]]
    tokens, _, _ = verify_tree(target, *tree, threshold_single=0.5, draft=np.zeros_like(target))
    assert tokens[0, :2].tolist() == [4, 3]


def test_given_outputs(target, draft_tokens):
    tokens = np.zeros((REQUESTS, DRAFTS + 1), np.int64)
    emitted, accepted, status = np.full((3, REQUESTS), 99, np.int32)
    target[3, 0, 0] = np.nan
    result = verify_chain(
        target, draft_tokens, temperature=0, tokens=tokens, emitted=emitted, accepted=accepted, status=status
    )  # fmt: skip
    assert result[0] is tokens and result[1] is emitted and result[2] is accepted
    assert np.array_equal(tokens, verify_chain(target, draft_tokens, temperature=0)[0])
    assert status.tolist() == [0, 0, 0, tw.sampling.SamplingStatus.NAN, 0, 0]


def test_workspace_size():
    assert verify_workspace_size(2, 9) == 2 * verify_workspace_size(1, 9) > verify_workspace_size(2, 1) > 0
    with pytest.raises(ValueError, match="requests is -1"):
        verify_workspace_size(-1, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"temperature": None}, TypeError, "temperature is None"),
        ({"order": "alphabetical"}, ValueError, "order is 'alphabetical'"),
        ({"input": "logarithms"}, ValueError, "input is 'logarithms': it must be \"logits\" or"),
        ({"threshold_acc": 1.5}, ValueError, r"threshold_acc is 1.5: it must be in \[0, 1\]"),
        ({"counts": [0, 4, 0, 0, 0, 0]}, ValueError, r"counts of request 1 is 4: it must be in \[0, 3\]"),
        ({"draft": np.zeros((1, 1, 1), np.float32)}, ValueError, r"draft is float32\[1, 1, 1\]"),
        ({"coins": np.zeros((REQUESTS, DRAFTS))}, TypeError, "coins has dtype float64"),
        ({"nonsense": 2}, TypeError, "nonsense is no argument"),
    ],
)
def test_bad_arguments(target, draft_tokens, arguments, error, match):
    with pytest.raises(error, match=match):
        verify_chain(target, draft_tokens, **arguments)


def test_bad_tensors(target, draft_tokens):
    with pytest.raises(ValueError, match="target is .* it must be"):
        verify_chain(target[0], draft_tokens)
    with pytest.raises(TypeError, match="draft_tokens"):
        verify_chain(target, None)
    with pytest.raises(ValueError, match="draft token 2 of request 5 is 40"):
        draft_tokens[5, 2] = 40
        verify_chain(target, draft_tokens)
    with pytest.raises(ValueError, match="length is 0"):
        verify_tree(target, draft_tokens, draft_tokens, draft_tokens, length=0)
    with pytest.raises(ValueError, match="parents of node 0 of request 0 is 3"):
        tree_links(np.array([[3]]))
