# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""State dicts of the official code and of transformers' VideoMAE under our names and back; no tensor is lost silently.

Dicts of tensors in, dicts out; no files, no models. The official layouts are those of VideoMS (EVEREST) and VideoMAE,
which are the same: pre-training has the encoder under `encoder.`, fine-tuning without a prefix.
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
_WRAPPERS = re.compile(r"^((module|_orig_mod|model|net|network|backbone)\.)+")

_BLOCK = {  # official name inside a block: ours, in the order of its rows
    "attn.qkv.weight": tuple(f"attention.attention.{part}.weight" for part in ("query", "key", "value")),
    "attn.q_bias": ("attention.attention.query.bias",),
    "attn.v_bias": ("attention.attention.value.bias",),
} | {
    f"{theirs}.{end}": (f"{ours}.{end}",)
    for theirs, ours in (
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    )
    for end in ("weight", "bias")
}
_OFFICIAL_BLOCK = {ours: theirs for theirs, names in _BLOCK.items() for ours in names}
_VIDEOMAE_BLOCK = {ours: (ours,) for ours in _OFFICIAL_BLOCK} | {
    "attention.attention.q_bias": ("attention.attention.query.bias",),
    "attention.attention.v_bias": ("attention.attention.value.bias",),
    # transformers had it for a time. It adds the same to all scores of a query, and the softmax removes it.
    "attention.attention.key.bias": (),
}
_OUTSIDE = {"mask_token": "mask_token", "encoder_to_decoder.weight": "encoder_to_decoder.weight"} | {
    f"{theirs}.{end}": f"{ours}.{end}"
    for theirs, ours in (
        ("encoder.patch_embed.proj", PROJECTION),
        ("encoder.norm", "videoms.layernorm"),
        ("decoder.norm", "decoder.norm"),
        ("decoder.head", "decoder.head"),
        ("fc_norm", "fc_norm"),
        ("patch_embed.proj", PROJECTION),  # from here on, those of fine-tuning
        ("norm", "videoms.layernorm"),
        ("head", "classifier"),
    )
    for end in ("weight", "bias")
}
_OURS_OUTSIDE = {*_OUTSIDE.values()}


class Converted(NamedTuple):
    """Weights under our names, and what became of the others; `dropped` are names in the checkpoint."""

    state: dict[str, Tensor]
    new: list[str]
    dropped: list[str]


def our_names(name: str) -> tuple[str, ...] | None:
    """Our weights that a tensor of any known layout holds, in the order of its rows; `None` if it is not known.

    It is one, or query, key and value of an official block, or none for a bias of keys.
    """
    name = _WRAPPERS.sub("", name)
    if match := re.fullmatch(r"(encoder\.|decoder\.|)blocks\.(\d+)\.(.+)", name):
        part = "decoder.decoder_layers" if match[1] == "decoder." else "videoms.encoder.layer"
        names = _BLOCK.get(match[3])
        return names and tuple(f"{part}.{match[2]}.{ours}" for ours in names)
    if name in _OUTSIDE:
        return (_OUTSIDE[name],)
    name = re.sub(r"^(videomae\.|videoms\.)?(?=embeddings\.|encoder\.layer\.|layernorm\.)", "videoms.", name)
    if match := re.fullmatch(r"((?:videoms\.encoder\.layer|decoder\.decoder_layers)\.\d+\.)(.+)", name):
        names = _VIDEOMAE_BLOCK.get(match[2])
        return names and tuple(match[1] + ours for ours in names)
    return (name,) if name in _OURS_OUTSIDE else None


def official_name(name: str, for_pretraining: bool) -> str:
    """The official name of one of our weights; query, key and value weights share one."""
    if match := re.fullmatch(r"(videoms\.encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)", name):
        prefix = "decoder." if match[1].startswith("decoder") else "encoder." if for_pretraining else ""
        return f"{prefix}blocks.{match[2]}.{_OFFICIAL_BLOCK[match[3]]}"
    names = [theirs for theirs, ours in _OUTSIDE.items() if ours == name]
    return names[0] if for_pretraining else names[-1]


def is_official(names: Iterable[str]) -> bool:
    """Whether these are names of the official code, and not of transformers' VideoMAE or ours."""
    return any(re.match(r"((encoder|decoder)\.)?(blocks|patch_embed)\.", _WRAPPERS.sub("", name)) for name in names)


def checkpoint_kind(names: Iterable[str]) -> str:
    """The network that a checkpoint's names belong to.

    "pretraining"; "classification"; "first_token", a classifier on the first token instead of the mean of all;
    "features", an encoder with a final norm; "encoder", one without.
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
    """Whether an encoder of these names ends with a norm; transformers' has none if it pools its tokens."""
    return any(ours.startswith(FINAL_NORM) for name in names for ours in our_names(name) or ())


def infer_sizes(state: Mapping[str, Tensor]) -> dict:
    """Configuration fields that follow from the tensors' shapes: all sizes but frames, image and heads.

    The majority decides where tensors contradict each other; [`convert`] names the others.
    """
    tensors = {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
    shapes = {ours: shape for name, shape in tensors.items() for ours in our_names(name) or ()}

    def vote(pattern: str) -> int | None:
        sizes = Counter(shape[0] for name, shape in shapes.items() if re.fullmatch(pattern, name) and shape)
        return sizes.most_common(1)[0][0] if sizes else None

    def depth(prefix: str) -> int | None:
        numbers = (re.match(rf"{prefix}\.(\d+)\.", name) for name in shapes)
        return max((int(number[1]) + 1 for number in numbers if number), default=None)

    encoder, decoder = r"videoms\.encoder\.layer", r"decoder\.decoder_layers"
    sizes = {
        "hidden_size": vote(rf"{encoder}\.\d+\.layernorm_\w+\.weight|{re.escape(PROJECTION)}\.bias"),
        "num_hidden_layers": depth(encoder),
        "intermediate_size": vote(rf"{encoder}\.\d+\.intermediate\.dense\.\w+"),
        "decoder_hidden_size": vote(rf"{decoder}\.\d+\.layernorm_\w+\.weight|decoder\.norm\.weight"),
        "decoder_num_hidden_layers": depth(decoder),
        "decoder_intermediate_size": vote(rf"{decoder}\.\d+\.intermediate\.dense\.\w+"),
        "num_labels": vote(r"classifier\.\w+"),
    }
    patch = shapes.get(f"{PROJECTION}.weight", ())
    if len(patch) == 5:
        _, channels, tubelet, height, width = patch
        sizes |= {"num_channels": channels, "tubelet_size": tubelet}
        sizes["patch_size"] = height if height == width else [height, width]
    return {name: size for name, size in sizes.items() if size is not None}


def infer_heads(field: str, width: int) -> int:
    """Attention heads of a network of that width, by the published sizes: 64 channels a head, 80 in the huge one."""
    published = {}
    for size, _, heads, *decoder in MODEL_SIZES.values():
        published |= dict([(size, heads), decoder])
    if width % 64 and width not in published:
        raise ValueError(
            f"{field} follows from no tensor, and a width of {width} is neither published nor a multiple of 64 "
            f"channels a head; give {field}"
        )
    return published.get(width, width // 64)


def convert(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, torch.Size],
    may_be_new: tuple[str, ...] = (),
    may_be_dropped: tuple[str, ...] = (),
) -> Converted:
    """The weights `wanted` (our names and shapes) from a state dict of any known layout.

    `ValueError` names all tensors that are missing, unexpected or of another shape. Names that begin with one of
    `may_be_new` may be missing; "classifier." may also have other classes. The state dict may have those of
    `may_be_dropped` in addition.
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
    begun = {name.rpartition(".")[0] for name in found}  # a layer must be complete
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
    head = "the weights are not complete, or not those of a network of this package; nothing was converted:"
    parts = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    lines = [f"  {what} ({len(names)}): {'; '.join(names)}" for what, names in parts.items() if names]
    return "\n".join([head, *lines])


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights in the official layout, of pre-training if there is a decoder, else of fine-tuning.

    `ValueError` names all that are not ours, and what a block lacks of query, key and value.
    """
    foreign = [name for name in state if our_names(name) != (name,)]
    is_pretraining = checkpoint_kind(state) == "pretraining"
    names = dict.fromkeys(official_name(name, is_pretraining) for name in state if name not in foreign)
    lacking = [ours for name in names for ours in our_names(name) if ours not in state]
    if foreign or lacking:
        raise ValueError(_report(lacking, foreign, []))
    official = {}
    for name in names:
        rows = [state[ours] for ours in our_names(name)]
        official[name] = torch.cat(rows) if len(rows) > 1 else rows[0]
    return official
