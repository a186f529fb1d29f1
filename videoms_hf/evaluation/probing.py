# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""Probes of frozen features: linear, attentive and k-NN, and a baseline without a network.

N training views, M test views, D width, K tokens, C classes. Features are first standardised by the training set's
mean and deviation, so that a probe does not depend on their scale.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.collate import collate_clips
from ..data.dataset import ViewDataset


PENALTIES = tuple(10.0 ** (power / 2) for power in range(-6, 9))  # of a ridge, times N
SHARPNESS = 6.0  # logits of a ridge are this times its scores, which lie about between 0 and 1
BATCH_SIZE = 64  # of an attentive probe
GRID, PARTS = 8, 4  # cells of a clip's frame differences, along height and width, and parts along time


def standardize(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both minus `train`'s mean, divided by its deviation, for each of the D values; constants become 0."""
    flat = train.flatten(0, -2)
    deviation, mean = torch.std_mean(flat, dim=0, correction=0)
    return (train - mean) / (deviation + 1e-6), (test - mean) / (deviation + 1e-6)


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, num_classes: int, weight_decay: float = 1e-2) -> Tensor:
    """Logits (M, C) of multinomial logistic regression on (N, D) features, trained to convergence; deterministic.

    It minimises the mean cross-entropy + weight_decay / 2 * |weight|^2 (without the bias).
    """
    train, test = standardize(train.double(), test.double())
    weight = torch.zeros(num_classes, train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=1000, line_search_fn="strong_wolfe", tolerance_grad=1e-7)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(train, weight, bias), labels) + weight_decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return F.linear(test, weight, bias).detach().float()


class LinearProbe(NamedTuple):
    """Logits are `weight @ (features - mean) / deviation + bias`."""

    mean: Tensor  # (D,)
    deviation: Tensor  # (D,)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    left_out: Tensor  # (N, C), the logits of each clip by weights fitted to all others

    def logits(self, features: Tensor) -> Tensor:
        """Logits (M, C) of features (M, D), float64."""
        return F.linear((features.double() - self.mean) / self.deviation, self.weight, self.bias)


def ridge_probe(
    features: Tensor, targets: Tensor, problem_type: str = "single_label_classification", penalty: float | None = None
) -> LinearProbe:
    """Ridge regression of the targets (N, C) on the standardised features (N, D), in closed form and float64.

    Targets are probabilities; for "multi_label_classification" 0 or 1, for "regression" any values. `penalty` is on
    the squared weights; by default the one with the smallest leave-one-out error, given the mean of all targets.
    `ValueError` if there are fewer than two clips.
    """
    num_clips = len(features)
    if num_clips < 2:
        raise ValueError(f"the probe is fitted to {num_clips} clips; there must be at least 2")
    features, targets = features.double(), targets.double()
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    deviation = deviation.clamp_min(1e-3 * deviation.mean()).clamp_min(1e-6)  # a constant feature must not explode
    offset = targets.mean(dim=0)
    centred = targets - offset
    left, size, right = torch.linalg.svd((features - mean) / deviation, full_matrices=False)
    trials = []
    for value in [share * num_clips for share in PENALTIES] if penalty is None else [penalty]:
        shrunk = (size / (size.square() + value))[:, None] * (left.T @ centred)
        leverage = left.square() @ (size.square() / (size.square() + value)) + 1 / num_clips
        # Without a clip the mean moves away from its target, by which chance would become less than chance.
        error = (centred - left @ (size[:, None] * shrunk)) / (1 - leverage[:, None]) - centred / (num_clips - 1)
        trials.append((error.square().mean(), shrunk, targets - error))
    _, shrunk, left_out = min(trials, key=lambda trial: trial[0])
    scale = 1.0 if problem_type == "regression" else SHARPNESS
    middle = 0.5 if problem_type == "multi_label_classification" else 0.0
    weight = shrunk.T @ right
    return LinearProbe(mean, deviation, scale * weight, scale * (offset - middle), scale * (left_out - middle))


def frame_differences(views: ViewDataset, batch_size: int = 8, num_workers: int = 0) -> Tensor:
    """Baseline without a network, (V, GRID * GRID * PARTS): absolute differences of consecutive grey frames.

    They are averaged over the cells of a grid and over up to PARTS parts of the clip.
    """
    loader = DataLoader(views, batch_size, num_workers=num_workers, collate_fn=collate_clips)
    parts = []
    for batch in tqdm(loader, desc="Frame differences", unit="batch"):
        changes = batch["pixel_values"].float().mean(dim=2).diff(dim=1).abs()  # (B, T - 1, H, W)
        cells = F.adaptive_avg_pool2d(changes, GRID).flatten(2).transpose(1, 2)
        parts.append(F.adaptive_avg_pool1d(cells, min(PARTS, cells.shape[2])).flatten(1))
    return torch.cat(parts)


class AttentiveProbe(nn.Module):
    """A classifier on (B, K, D) tokens: one learned query attends to them, then a linear layer classifies."""

    def __init__(self, width: int, num_classes: int, num_heads: int):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.attention(self.query.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)
        return self.classifier(self.norm(pooled[:, 0]))


def attentive_probe(
    train: Tensor, labels: Tensor, test: Tensor, num_classes: int, num_heads: int, *,
    num_epochs: int = 50, learning_rate: float = 1e-3, seed: int = 0, device: torch.device | str = "cpu",
) -> Tensor:  # fmt: skip
    """Logits (M, C) of an [`AttentiveProbe`] trained on tokens (N, K, D) by AdamW with a cosine schedule."""
    train, test = standardize(train, test)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        probe = AttentiveProbe(train.shape[-1], num_classes, num_heads).to(device)
        optimizer = torch.optim.AdamW(probe.parameters(), learning_rate, weight_decay=0.05)
        num_steps = num_epochs * -(-len(train) // BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        for _ in range(num_epochs):
            for rows in torch.randperm(len(train)).split(BATCH_SIZE):
                loss = F.cross_entropy(probe(train[rows].to(device)), labels[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    with torch.inference_mode():
        return torch.cat([probe(part.to(device)).cpu() for part in test.split(BATCH_SIZE)])


def nearest_neighbours(
    train: Tensor, labels: Tensor, test: Tensor, num_classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Scores (M, C): votes of the `k` training features with the highest cosine similarity s, weighted by exp(s / t).

    Source: the weighted vote of Wu et al., arXiv:1805.01978. If there are fewer than `k`, all vote.
    """
    train, test = (F.normalize(part, dim=-1) for part in standardize(train, test))
    similarities, rows = (test @ train.T).topk(min(k, len(train)), dim=1)
    votes = F.one_hot(labels[rows], num_classes) * (similarities / temperature).exp()[..., None]
    return votes.sum(dim=1)
