# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""State dicts of the official code and of transformers' VideoMAE under our names, and back. Nothing is lost unsaid.

Dicts of tensors in, dicts out; no files, no models. Official are the layouts of VideoMS (EVEREST) and VideoMAE, which
are the same: pre-training has the encoder under `encoder.`, fine-tuning without a prefix.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..configuration_videoms import MODEL_SIZES


PROJECTION = "videoms.embeddings.patch_embeddings.projection"
FINAL_NORM = ("videoms.layernorm.",)  # the encoder's; a classifier has none
DECODER = ("decoder.", "encoder_to_decoder.", "mask_token")
HEAD = ("fc_norm.", "classifier.")

# Names under which other modules hold a whole model: DistributedDataParallel, torch.compile, Lightning, mmengine.
_WRAPPERS = re.compile(r"((module|_orig_mod|model|net|network|backbone)\.)+")

_IN_BLOCK = {  # official name inside a block: ours
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BIASES = {"q_bias": "query.bias", "v_bias": "value.bias"}
_OUR_BLOCK = {
    *(f"{ours}.{end}" for ours in _IN_BLOCK.values() for end in ("weight", "bias")),
    *(f"attention.attention.{part}.weight" for part in ("query", "key", "value")),
    *(f"attention.attention.{bias}" for bias in _BIASES.values()),
}
_OUTSIDE = {  # official name: ours; the last three are those of fine-tuning
    "encoder.patch_embed.proj": PROJECTION,
    "encoder.norm": "videoms.layernorm",
    "encoder_to_decoder": "encoder_to_decoder",
    "decoder.norm": "decoder.norm",
    "decoder.head": "decoder.head",
    "fc_norm": "fc_norm",
    "patch_embed.proj": PROJECTION,
    "norm": "videoms.layernorm",
    "head": "classifier",
}
_OURS_OUTSIDE = {*_OUTSIDE.values()}


class Converted(NamedTuple):
    """Weights under our names, and what became of the others; `dropped` are names in the checkpoint."""

    state: dict[str, Tensor]
    new: list[str]
    dropped: list[str]


def our_names(name: str) -> tuple[str, ...] | None:
    """Our weights that a tensor of any known layout holds, in the order of its rows; `None` if it is not known.

    It is one, or query, key and value of an official block; and none for a bias of keys, which transformers had for a
    time: it adds the same to all scores of a query, and the softmax takes it away.
    """
    name = _unwrapped(name)
    if name == "mask_token":
        return (name,)
    if match := re.fullmatch(r"(encoder\.|decoder\.|)blocks\.(\d+)\.(.+)", name):
        part, number, rest = match.groups()
        return _in_official_block(_block_prefix(part == "decoder.", number), rest)
    stem, _, end = name.rpartition(".")
    if stem == "encoder_to_decoder":
        return (name,) if end == "weight" else None
    if stem in _OUTSIDE and end in ("weight", "bias"):
        return (f"{_OUTSIDE[stem]}.{end}",)
    name = re.sub(r"^(videomae\.|videoms\.)?(?=embeddings\.|encoder\.layer\.|layernorm\.)", "videoms.", name)
    if match := re.fullmatch(r"videoms\.encoder\.layer\.(\d+)\.(.+)|decoder\.decoder_layers\.(\d+)\.(.+)", name):
        rest = match[2] or match[4]
        return _in_videomae_block(name.removesuffix(rest), rest)
    stem, _, end = name.rpartition(".")
    return (name,) if stem in _OURS_OUTSIDE and end in ("weight", "bias") else None


def _unwrapped(name: str) -> str:
    return _WRAPPERS.sub("", name, count=1) if _WRAPPERS.match(name) else name


def _block_prefix(is_decoder: bool, number: str) -> str:
    return f"decoder.decoder_layers.{number}." if is_decoder else f"videoms.encoder.layer.{number}."


def _in_official_block(prefix: str, rest: str) -> tuple[str, ...] | None:
    if rest == "attn.qkv.weight":
        return tuple(f"{prefix}attention.attention.{part}.weight" for part in ("query", "key", "value"))
    if rest in ("attn.q_bias", "attn.v_bias"):
        return (f"{prefix}attention.attention.{_BIASES[rest.removeprefix('attn.')]}",)
    stem, _, end = rest.rpartition(".")
    return (f"{prefix}{_IN_BLOCK[stem]}.{end}",) if stem in _IN_BLOCK and end in ("weight", "bias") else None


def _in_videomae_block(prefix: str, rest: str) -> tuple[str, ...] | None:
    if rest == "attention.attention.key.bias":
        return ()
    stem, _, end = rest.rpartition(".")
    rest = f"{stem}.{_BIASES.get(end, end)}"
    return (prefix + rest,) if rest in _OUR_BLOCK else None


def official_name(name: str, for_pretraining: bool) -> str:
    """The official name of one of our weights; query, key and value weights share one."""
    if match := re.fullmatch(r"(videoms\.encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)", name):
        part, number, rest = match.groups()
        encoder = "encoder." if for_pretraining else ""
        prefix = f"{'decoder.' if part.startswith('decoder') else encoder}blocks.{number}."
        if re.fullmatch(r"attention\.attention\.(query|key|value)\.weight", rest):
            return f"{prefix}attn.qkv.weight"
        for theirs, ours in _BIASES.items():
            if rest == f"attention.attention.{ours}":
                return f"{prefix}attn.{theirs}"
        stem, _, end = rest.rpartition(".")
        return prefix + {ours: theirs for theirs, ours in _IN_BLOCK.items()}[stem] + f".{end}"
    if name == "mask_token":
        return name
    stem, _, end = name.rpartition(".")
    candidates = [theirs for theirs, ours in _OUTSIDE.items() if ours == stem]
    return f"{candidates[0] if for_pretraining else candidates[-1]}.{end}"


def is_official(names: Iterable[str]) -> bool:
    """Whether these are names of the official code, and not of transformers' VideoMAE or ours."""
    return any(re.match(r"((encoder|decoder)\.)?(blocks|patch_embed)\.", _unwrapped(name)) for name in names)


def checkpoint_kind(names: Iterable[str]) -> str:
    """What network a checkpoint's names belong to.

    "pretraining"; "classification"; "first_token", a classifier on the first token instead of the mean of all;
    "features", an encoder with its final norm; "encoder", one without.
    """
    ours = {name for theirs in names for name in our_names(theirs) or ()}

    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in ours)

    if has(*DECODER):
        return "pretraining"
    if has(*HEAD):
        return "first_token" if has(*FINAL_NORM) and not has("fc_norm.") else "classification"
    return "features" if has(*FINAL_NORM) else "encoder"


def has_final_norm(names: Iterable[str]) -> bool:
    """Whether an encoder of these names ends with a norm; that of transformers has none if it pools its tokens."""
    return any(ours.startswith(FINAL_NORM) for name in names for ours in our_names(name) or ())


def with_zero_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a VideoMAE without biases of queries and values, with biases of zero: it computes the same."""
    return {**state} | {
        f"{name.removesuffix('weight')}bias": value.new_zeros(len(value))
        for name, value in state.items()
        if name.endswith(("attention.query.weight", "attention.value.weight"))
    }


def infer_sizes(state: Mapping[str, Tensor]) -> dict:
    """The configuration's fields that follow from the tensors' shapes: all sizes but frames, image and heads.

    Tensors that contradict each other are outvoted here, for [`convert`] to name them.
    """
    shapes = {
        ours: value.shape
        for name, value in state.items()
        if isinstance(value, Tensor)
        for ours in our_names(name) or ()
    }

    def vote(pattern: str, dimension: int) -> int | None:
        sizes = Counter(
            shape[dimension]
            for name, shape in shapes.items()
            if re.fullmatch(pattern, name) and len(shape) > dimension
        )
        return sizes.most_common(1)[0][0] if sizes else None

    def depth(prefix: str) -> int | None:
        return max(
            (int(match[1]) + 1 for name in shapes if (match := re.match(rf"{prefix}\.(\d+)\.", name))), default=None
        )

    encoder, decoder = r"videoms\.encoder\.layer", r"decoder\.decoder_layers"
    sizes = {
        "hidden_size": vote(rf"{encoder}\.\d+\.layernorm_\w+\.weight|{re.escape(PROJECTION)}\.bias", 0),
        "num_hidden_layers": depth(encoder),
        "intermediate_size": vote(rf"{encoder}\.\d+\.intermediate\.dense\.\w+", 0),
        "decoder_hidden_size": vote(rf"{decoder}\.\d+\.layernorm_\w+\.weight|decoder\.norm\.weight", 0),
        "decoder_num_hidden_layers": depth(decoder),
        "decoder_intermediate_size": vote(rf"{decoder}\.\d+\.intermediate\.dense\.\w+", 0),
        "num_labels": vote(r"classifier\.\w+", 0),
    }
    patch = shapes.get(f"{PROJECTION}.weight", ())
    if len(patch) == 5:
        _, channels, tubelet, height, width = patch
        sizes |= {"num_channels": channels, "tubelet_size": tubelet}
        sizes["patch_size"] = height if height == width else [height, width]
    return {name: size for name, size in sizes.items() if size is not None}


def infer_heads(field: str, width: int) -> int:
    """Attention heads of a network of that width, by the published sizes: 64 channels each, 80 in the huge one."""
    published = {}
    for size, _, heads, decoder_width, decoder_heads in MODEL_SIZES.values():
        published |= {size: heads, decoder_width: decoder_heads}
    if width in published:
        return published[width]
    if width % 64:
        raise ValueError(
            f"{field} follows from no tensor, and a width of {width} is neither a published one nor a multiple of 64 "
            f"channels a head; give {field}"
        )
    return width // 64


def convert(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, torch.Size],
    may_be_new: tuple[str, ...] = (),
    may_be_dropped: tuple[str, ...] = (),
) -> Converted:
    """The weights `wanted` (our names and shapes) out of a state dict of any known layout.

    Args:
        may_be_new: how wanted names begin that the checkpoint may lack; with "classifier.", or have for other classes.
        may_be_dropped: how our names begin of tensors that it may have beyond what is wanted.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; all of them are named.
    """
    found: dict[str, Tensor] = {}
    dropped, unexpected, misshapen = [], [], []
    for name, value in state.items():
        ours = our_names(name)
        if ours is None or not isinstance(value, Tensor):
            unexpected.append(name)
        elif not ours:
            dropped.append(name)
        elif ours[0] in found:
            unexpected.append(f"{name} (a second one)")
        elif ours[0] not in wanted:
            (dropped if ours[0].startswith(may_be_dropped) else unexpected).append(name)
        else:
            shape = list(wanted[ours[0]])
            shape[:1] = [len(ours) * size for size in shape[:1]]
            if list(value.shape) == shape:
                found |= zip(ours, value.chunk(len(ours)) if len(ours) > 1 else (value,), strict=True)
            elif "classifier." in may_be_new and ours[0].startswith("classifier."):
                dropped.append(name)  # of other classes
            else:
                misshapen.append(f"{name} is {list(value.shape)}, it must be {shape}")
                found |= dict.fromkeys(ours, value)
    missing = [name for name in wanted if name not in found]
    begun = {name.rpartition(".")[0] for name in found}  # of a layer that is there, nothing can be missing
    new = [name for name in missing if name.startswith(may_be_new) and name.rpartition(".")[0] not in begun]
    lacking = [name for name in missing if name not in new]
    if lacking or unexpected or misshapen:
        raise ValueError(_report(_as_named(lacking, state), unexpected, misshapen))
    return Converted({name: found[name] for name in wanted if name in found}, new, dropped)


def _as_named(names: list[str], state: Mapping[str, Tensor]) -> list[str]:
    """Our names as the checkpoint would have them."""
    if is_official(state):
        is_pretraining = checkpoint_kind(state) == "pretraining"
        return list(dict.fromkeys(official_name(name, is_pretraining) for name in names))
    return [re.sub(r"^videoms\.", "videomae.", name) for name in names]


def _report(missing: list[str], unexpected: list[str], misshapen: list[str]) -> str:
    lines = ["the weights are not those of a network that this package knows:"]
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            lines.append(f"  {what} ({len(names)}): {', '.join(names)}")
    return "\n".join([*lines, "Nothing was converted; the file must be complete and of the same architecture"])


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights in the official layout, of pre-training if there is a decoder, else of fine-tuning.

    Raises:
        ValueError: some are not ours, or a block lacks one of query, key and value; all of them are named.
    """
    foreign = [name for name in state if our_names(name) != (name,)]
    is_pretraining = checkpoint_kind(state) == "pretraining"
    parts: dict[str, list[str]] = {}
    for name in state:
        if name not in foreign:
            parts.setdefault(official_name(name, is_pretraining), []).append(name)
    lacking, official = [], {}
    for theirs, names in parts.items():
        ours = our_names(theirs)
        lacking += [name for name in ours if name not in names]
        if not lacking:
            official[theirs] = torch.cat([state[name] for name in ours]) if len(ours) > 1 else state[names[0]]
    if foreign or lacking:
        raise ValueError(_report(lacking, foreign, []))
    return official
