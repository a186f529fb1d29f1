"""Checkpoints as the official code writes them, with random weights, and what its networks compute.

Written from the layout's names and the method's definition, on plain dicts of tensors: nothing here is the package's.
"""

import math

import torch
import torch.nn.functional as F


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def official_state(
    kind, width=16, depth=2, mlp=24, decoder=(12, 2, 20), labels=5, patch=8, tubelet=2, channels=3, seed=0
):
    """A state dict of kind "pretraining" or "classification"; every parameter is random, biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def add(name, *shape):
        state[name] = torch.randn(shape, generator=generator) * 0.3

    def linear(name, inputs, outputs):
        add(f"{name}.weight", outputs, inputs), add(f"{name}.bias", outputs)

    def norm(name, size):
        add(f"{name}.weight", size), add(f"{name}.bias", size)

    def blocks(prefix, number, size, hidden):
        for i in range(number):
            name = f"{prefix}blocks.{i}"
            norm(f"{name}.norm1", size)
            add(f"{name}.attn.q_bias", size), add(f"{name}.attn.v_bias", size)
            add(f"{name}.attn.qkv.weight", 3 * size, size)
            linear(f"{name}.attn.proj", size, size)
            norm(f"{name}.norm2", size)
            linear(f"{name}.mlp.fc1", size, hidden), linear(f"{name}.mlp.fc2", hidden, size)

    prefix = "encoder." if kind == "pretraining" else ""
    add(f"{prefix}patch_embed.proj.weight", width, channels, tubelet, patch, patch)
    add(f"{prefix}patch_embed.proj.bias", width)
    blocks(prefix, depth, width, mlp)
    if kind == "classification":
        norm("fc_norm", width), linear("head", width, labels)
        return state
    norm("encoder.norm", width)
    size, number, hidden = decoder
    add("mask_token", 1, 1, size), add("encoder_to_decoder.weight", size, width)
    blocks("decoder.", number, size, hidden)
    norm("decoder.norm", size), linear("decoder.head", size, channels * tubelet * patch * patch)
    return state


def positions(number, width):
    """Sine and cosine table (number, width)."""
    rows = [
        [(math.cos if j % 2 else math.sin)(p / 10000 ** (2 * (j // 2) / width)) for j in range(width)]
        for p in range(number)
    ]
    return torch.tensor(rows, dtype=torch.float64).float()


def embed(state, prefix, clip):
    """Patch embeddings (N, D) of a clip (T, C, H, W), time slowest."""
    weight, bias = state[f"{prefix}patch_embed.proj.weight"], state[f"{prefix}patch_embed.proj.bias"]
    return F.conv3d(clip.transpose(0, 1)[None], weight, bias, stride=weight.shape[2:])[0].flatten(1).T


def importance(embedded, steps):
    """How far each token's embedding is from that of its place one step before; the first step takes the second's."""
    places = len(embedded) // steps
    scores = [
        torch.linalg.vector_norm(embedded[i + places * (i < places)] - embedded[i - places * (i >= places)]).item()
        for i in range(len(embedded))
    ]
    return scores


def most_moving(scores, number):
    """The most important tokens, most important first; of equal ones the earlier."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:number]


def block(state, name, x, heads):
    size = x.shape[-1]
    h = F.layer_norm(x, (size,), state[f"{name}.norm1.weight"], state[f"{name}.norm1.bias"], 1e-6)
    bias = torch.cat([state[f"{name}.attn.q_bias"], torch.zeros(size), state[f"{name}.attn.v_bias"]])
    qkv = F.linear(h, state[f"{name}.attn.qkv.weight"], bias).reshape(len(x), 3, heads, size // heads)
    query, key, value = qkv.permute(1, 2, 0, 3)  # (heads, N, head size)
    attention = torch.softmax(query @ key.mT * (size // heads) ** -0.5, dim=-1)
    mixed = (attention @ value).transpose(0, 1).reshape(len(x), size)
    x = x + F.linear(mixed, state[f"{name}.attn.proj.weight"], state[f"{name}.attn.proj.bias"])
    h = F.layer_norm(x, (size,), state[f"{name}.norm2.weight"], state[f"{name}.norm2.bias"], 1e-6)
    h = F.gelu(F.linear(h, state[f"{name}.mlp.fc1.weight"], state[f"{name}.mlp.fc1.bias"]))
    return x + F.linear(h, state[f"{name}.mlp.fc2.weight"], state[f"{name}.mlp.fc2.bias"])


def run_blocks(state, prefix, x, heads):
    depth = 1 + max(int(name[len(prefix) :].split(".")[1]) for name in state if name.startswith(f"{prefix}blocks."))
    for i in range(depth):
        x = block(state, f"{prefix}blocks.{i}", x, heads)
    return x


def normed(state, name, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def classify(state, clip, heads, keep_ratio):
    """Class scores of one clip, and the tokens that were kept."""
    embedded = embed(state, "", clip)
    steps = len(clip) // state["patch_embed.proj.weight"].shape[2]
    number = math.floor(keep_ratio * len(embedded) + 1e-6)
    kept = sorted(most_moving(importance(embedded, steps), number))
    x = (embedded + positions(*embedded.shape))[kept]
    x = normed(state, "fc_norm", run_blocks(state, "", x, heads).mean(dim=0))
    return F.linear(x, state["head.weight"], state["head.bias"]), kept


def pretrain(state, clip, heads, decoder_heads, visible, targets):
    """Loss and predictions of one clip, for the tokens that are visible and to be predicted."""
    embedded = embed(state, "encoder.", clip)
    x = (embedded + positions(*embedded.shape))[visible]
    x = normed(state, "encoder.norm", run_blocks(state, "encoder.", x, heads))
    x = F.linear(x, state["encoder_to_decoder.weight"])
    table = positions(len(embedded), x.shape[-1])
    x = torch.cat([x + table[visible], state["mask_token"][0] + table[targets]])
    x = normed(state, "decoder.norm", run_blocks(state, "decoder.", x, decoder_heads)[len(visible) :])
    predicted = F.linear(x, state["decoder.head.weight"], state["decoder.head.bias"])
    _, _, tubelet, patch, _ = state["encoder.patch_embed.proj.weight"].shape
    wanted = []
    rows, columns = clip.shape[2] // patch, clip.shape[3] // patch
    for token in targets:
        t, r, c = token // (rows * columns), token // columns % rows, token % columns
        pixels = clip[t * tubelet : (t + 1) * tubelet, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
        pixels = pixels.double() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        pixels = pixels.permute(0, 2, 3, 1).reshape(-1, 3)
        wanted.append(((pixels - pixels.mean(0)) / (pixels.std(0, unbiased=True) + 1e-6)).flatten())
    return ((predicted.double() - torch.stack(wanted)) ** 2).mean().float(), predicted
