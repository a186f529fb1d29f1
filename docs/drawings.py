"""Draws the pictures of docs/method.md and docs/loss.md, from clips that it renders and from the logs of a quickstart.

python docs/drawings.py                          the method
python docs/drawings.py --quickstart quickstart  also the curves of that run (the folder of `videoms quickstart`)
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSModel
from videoms_hf.configuration_videoms import token_counts
from videoms_hf.experiments.synthetic import render_motion_clip
from videoms_hf.visualization.drawings import draw_pretraining_tokens


matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402


DOCS = Path(__file__).parent
BLUE, ORANGE, GREY, DARK, INK = "#3b6fd4", "#f0a020", "#d3d6dc", "#4a5160", "#22262e"
SIZE = {"image_size": 112, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZE |= {"intermediate_size": 64, "decoder_hidden_size": 64, "decoder_num_attention_heads": 2}


def clip_of(num_frames: int, motion: str = "right", seed: int = 3) -> torch.Tensor:
    """A rendered clip, uint8 (T, 3, 112, 112)."""
    return render_motion_clip(motion, 112, num_frames, np.random.default_rng(seed))


def pixels_of(frames: torch.Tensor, config: VideoMSConfig) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.image_mean, config.image_std))
    return ((frames / 255 - mean) / std)[None]


def draw_tokens() -> None:
    """Which tokens pre-training computes on, by a network with random weights."""
    torch.manual_seed(0)
    config, frames = VideoMSConfig(**SIZE), clip_of(16)
    with torch.no_grad():
        out = VideoMSForPreTraining(config).eval()(pixels_of(frames, config))
        sizes = (config.tubelet_size, config.patch_size)
        picture = draw_pretraining_tokens(frames, out.visible_ids[0], out.target_ids[0], *sizes, out.importance[0])
    picture.quantize(256).save(DOCS / "method_tokens.png", optimize=True)


def box(axes, x: float, y: float, width: float, height: float, text: str, color: str, ink: str = "white") -> None:
    shape = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y - height / 2), width, height, boxstyle=shape, facecolor=color, linewidth=0))
    axes.text(x + width / 2, y, text, ha="center", va="center", color=ink, fontsize=10, linespacing=1.4)


def arrow(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK, linewidth=1.2))


def draw_networks() -> None:
    """Both networks; the height of a bar of tokens is proportional to their number."""
    config = VideoMSConfig()
    total, visible, targets = token_counts(config, for_pretraining=True)
    kept = token_counts(config).encoded
    figure, axes = plt.subplots(figsize=(11.4, 5), dpi=130)

    def tokens(x: float, y: float, parts: list[tuple[int, str]], caption: str) -> None:
        top = middle = y + 0.9 * sum(count for count, _ in parts) / total
        for count, color in parts:
            height = 1.8 * count / total
            axes.add_patch(plt.Rectangle((x, top - height), 0.35, height, color=color, linewidth=0))
            top -= height
        axes.text(x + 0.17, middle + 0.08, caption, ha="center", va="bottom", fontsize=10, color=INK)

    for y, title in ((3.6, "Pre-training"), (1.0, "Classification")):
        axes.text(0, y + 1.0, title, fontsize=13, fontweight="bold", color=INK)
        box(axes, 0, y, 1.2, 0.9, "clip,\n16 frames", GREY, INK)
        tokens(1.8, y, [(total, GREY)], f"{total} tokens")
        box(axes, 2.75, y, 1.6, 0.9, "keep those\nthat move most", DARK)
        places = ((1.2, 1.8), (2.15, 2.75), (4.35, 4.95), (5.3, 5.9), (7.4, 8.0), (9.5, 10.1))
        for start, end in places:
            arrow(axes, (start, y), (end, y))
        is_pretraining = y > 2
        parts = [(visible, ORANGE), (targets, BLUE)] if is_pretraining else [(kept, ORANGE)]
        tokens(4.95, y, parts, f"{visible} visible,\n{targets} targets" if is_pretraining else f"{kept} kept")
        box(axes, 5.9, y, 1.5, 0.9, f"encoder on\n{visible if is_pretraining else kept} tokens", DARK)
        box(axes, 8.0, y, 1.5, 0.9, f"decoder on\n{visible + targets} tokens" if is_pretraining else "mean", DARK)
        goal = f"pixels of\n{targets} targets" if is_pretraining else "class scores"
        box(axes, 10.1, y, 1.4, 0.9, goal, BLUE if is_pretraining else GREY, "white" if is_pretraining else INK)
    axes.text(7.7, 4.15, "mask tokens join", ha="center", fontsize=10, color=INK)
    axes.set(xlim=(-0.05, 11.55), ylim=(0.05, 4.95), aspect="equal")
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    save(figure, "method_networks.png")


def draw_frame_selection() -> None:
    """Candidates of which a third does not move, how many important tokens each has, and the chosen ones."""
    torch.manual_seed(0)
    moving = clip_of(32)[::2]
    frames = torch.cat([moving[:1].repeat(5, 1, 1, 1), moving, moving[-1:].repeat(3, 1, 1, 1)])
    config = VideoMSConfig(**SIZE, candidate_ratio=1.5)
    model = VideoMSModel(config).eval()
    with torch.no_grad():
        chosen = set(model(pixels_of(frames, config)).slice_ids[0].tolist())
        importance = model.embeddings.importance(pixels_of(frames, config))[0]
    order = importance.argsort(descending=True)[: int(config.pretraining_keep_ratio * len(importance))]
    counts = torch.bincount(order // (len(importance) // 12), minlength=12).tolist()
    figure, axes = plt.subplots(2, 12, figsize=(10, 2.3), dpi=130, height_ratios=(1, 1.1))
    for step in range(12):
        color = BLUE if step in chosen else GREY
        above, below = axes[:, step]
        above.bar(0, counts[step], color=color)
        above.set(ylim=(0, max(counts) * 1.25), xlim=(-0.7, 0.7))
        above.text(0, counts[step], counts[step], ha="center", va="bottom", fontsize=9, color=INK)
        above.axis("off")
        picture = frames[2 * step].permute(1, 2, 0).numpy()
        below.imshow(picture if step in chosen else (0.35 * picture + 130).astype(np.uint8))
        below.set(xticks=[], yticks=[])
        for side in below.spines.values():
            side.set(color=color, linewidth=2.5)
    figure.text(0.005, 0.93, "important tokens of each candidate time step", fontsize=9, color=INK)
    figure.subplots_adjust(0.005, 0.02, 0.995, 0.9, 0.08, 0.05)
    save(figure, "method_frame_selection.png")


def draw_curves(quickstart: Path) -> None:
    """Losses of the first seed's pre-training and fine-tunings."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), dpi=130)
    runs = {"scratch": ("from scratch", ORANGE), "finetune": ("after pre-training", BLUE)}
    for axis, names in zip(axes, ({"pretrain": ("", BLUE)}, runs), strict=True):
        for folder, (label, color) in names.items():
            log = json.loads((quickstart / "seed-0" / folder / "training_log.json").read_text(encoding="utf-8"))
            points = [(entry["step"], entry["loss"]) for entry in log["log_history"] if "loss" in entry]
            axis.plot(*zip(*points, strict=True), label=label, color=color, linewidth=1.6)
        axis.set(xlabel="step", ylabel="loss")
        axis.spines[["top", "right"]].set_visible(False)
    for axis, y, text in (
        (axes[0], 1.0, "predicts the mean"),
        (axes[1], np.log(8), "guesses"),
        (axes[1], 0.467, "least"),
    ):
        axis.axhline(y, color="grey", linewidth=0.8, linestyle="--")
        axis.text(axis.get_xlim()[1], y, text, ha="right", va="bottom", fontsize=8, color="grey")
    axes[0].set_title("pre-training", fontsize=10)
    axes[1].set_title("fine-tuning, 8 classes, label smoothing 0.1", fontsize=10)
    axes[1].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    save(figure, "loss.png")


def save(figure, name: str) -> None:
    figure.savefig(DOCS / name)
    plt.close(figure)
    with Image.open(DOCS / name) as picture:
        picture.convert("RGB").quantize(256).save(DOCS / name, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, help="folder of `videoms quickstart`")
    args = parser.parse_args()
    draw_tokens()
    draw_networks()
    draw_frame_selection()
    if args.quickstart:
        draw_curves(args.quickstart)
