"""The learned maps of the paper in NumPy float64: phi (Eq. 6), attention (Eq. 11), F_fine and F_coarse (Eq. 10, 12)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def summary(prototypes: np.ndarray, kind: str) -> np.ndarray:
    """[m^max ; mean] of prototypes [L P D], or the authors' [mean ; element-wise maximum]."""
    mean = prototypes.mean(1)
    if kind == "elementwise_max":
        return np.concatenate([mean, prototypes.max(1)], -1)
    largest = np.linalg.norm(prototypes, axis=-1).argmax(1)
    return np.concatenate([prototypes[np.arange(len(prototypes)), largest], mean], -1)


def phi(
    prototypes: np.ndarray, weights: Weights, kind: str = "largest_norm", share_context: bool = False
) -> np.ndarray:
    """s_l = phi([m_l^max ; mean of m_l]); `weights` are named embed.*, regress.*."""
    hidden = gelu(linear(layer_norm(summary(prototypes, kind), weights, "embed.0"), weights, "embed.1"))
    if share_context:
        own, shared = np.split(hidden, 2, axis=-1)
        hidden = np.concatenate([own, np.broadcast_to(shared.mean(0), shared.shape)], -1)
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("regress."))
    for layer in range(0, last, 2):
        hidden = gelu(linear(hidden, weights, f"regress.{layer}"))
    return linear(hidden, weights, f"regress.{last}")[..., 0]


def min_max(scores: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
    """Scaled to [0, 1] over finite values; -inf becomes 0, all equal 1."""
    known = np.isfinite(scores)
    if not known.any():
        return np.ones_like(scores)
    low, high = scores[known].min(), scores[known].max()
    if high == low:
        return known.astype(np.float64)
    return np.where(known, (np.where(known, scores, 0) - low) / (high - low + epsilon), 0.0)


def rod_rows(sources: np.ndarray, text: np.ndarray | None, weights: Weights, densest: int, temperature: float | None):
    """[mean(G_t) ; mean(E_t)], E_t = softmax(phi_q(Q) phi_k(G_t)^T / sqrt(D)) G_t; one frame.

    With a temperature phi_q and phi_k are the identity on normalised rows. No question: the densest source.
    """
    content = sources.mean(0)
    if text is None or not len(text):
        return np.stack([content, sources[densest]])
    if temperature is None:
        query = linear(text, weights, "query") if "query.weight" in weights else text
        logits = query @ linear(sources, weights, "key").T / math.sqrt(sources.shape[-1])
    else:
        unit = [x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (text, sources)]
        logits = unit[0] @ unit[1].T / temperature
    return np.stack([content, (softmax(logits) @ sources).mean(0)])


def cone_rows(event: np.ndarray, levels: list[np.ndarray], fusion: str, weights: Weights) -> np.ndarray:
    """[h_k ; G_t] and the other fusions of Table 12; one frame."""
    objects = np.concatenate(levels)
    if fusion == "multi_grained":
        return np.concatenate([event, objects])
    if fusion == "concatenation":
        return np.concatenate([event, levels[0]])
    logits = linear(event, weights, "query") @ linear(objects, weights, "key").T / math.sqrt(event.shape[-1])
    return softmax(logits) @ objects


def fine(rows: np.ndarray, weights: Weights) -> np.ndarray:
    if "content.0.weight" not in weights:
        return rows
    return linear(gelu(linear(rows, weights, "content.0")), weights, "content.2")


def coarse(rows: np.ndarray, weights: Weights) -> np.ndarray:
    if "content.0.weight" not in weights:
        return rows
    return np.concatenate([fine(rows[:1], weights), linear(rows[1:], weights, "context")])
