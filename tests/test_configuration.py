"""VideoMSConfig: what it refuses, what it derives, what it keeps."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSModel
from videoms_hf.configuration_videoms import floor_share


@pytest.mark.parametrize(
    "ratio, total, count",
    [(0.1, 1570, 157), (1 - 0.9, 1570, 157), (1 - 0.9, 1568, 156), (0.3, 1568, 470), (0.6, 1568, 940), (1.0, 7, 7)],
)
def test_counts_are_floors_with_float_error_forgiven(ratio, total, count):
    assert floor_share(ratio, total) == count


@pytest.mark.parametrize(
    "field, value",
    [
        ("token_selection", "fast"),
        ("pretraining_keep_ratio", 0),
        ("pretraining_keep_ratio", 1.2),
        ("mask_ratio", 0.0),
        ("mask_ratio", 1.0),
        ("mask_ratio", -0.1),
        ("keep_ratio", 0.0),
        ("keep_ratio", 1.01),
        ("keep_ratio", float("nan")),
        ("num_kept_tokens", 0),
        ("candidate_ratio", 0.5),
        ("candidate_ratio", float("inf")),
        ("drop_path_rate", 1.0),
        ("drop_path_rate", -0.1),
        ("classifier_dropout", 1.5),
        ("hidden_dropout_prob", -1),
        ("head_init_scale", 0),
        ("patch_size", 0),
        ("image_size", [224]),
        ("num_frames", 0),
        ("tubelet_size", 0),
        ("decoder_num_hidden_layers", 0),
        ("hidden_size", -8),
        ("num_frames", "16"),
        ("keep_ratio", "all"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(StrictDataclassError, match=field):
        VideoMSConfig(**{field: value})


def test_out_of_range_error_tells_value_and_range():
    with pytest.raises(StrictDataclassError, match=r"keep_ratio is 1\.5; it must be in \(0, 1\]"):
        VideoMSConfig(keep_ratio=1.5)


@pytest.mark.parametrize("field", ["pretraining_keep_ratio", "keep_ratio", "candidate_ratio"])
def test_whole_numbers_are_fine_as_ratios(field):
    assert getattr(VideoMSConfig(**{field: 1}), field) == 1


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"patch_size": 7}, "height is 32.*patch_size 7"),
        ({"image_size": [32, 30]}, "width is 30.*patch_size 8"),
        ({"num_frames": 7}, "frames is 7.*tubelet_size 2"),
        ({"num_frames": 2}, "one tubelet"),
        ({"num_attention_heads": 3}, "hidden_size 16 .*num_attention_heads 3"),
        ({"decoder_num_attention_heads": 5}, "decoder_hidden_size 12 .*decoder_num_attention_heads 5"),
    ],
)
def test_fields_that_clash_are_refused_when_a_model_is_built(tiny_config, fields, message):
    config = tiny_config(**fields)  # transformers' tools make such configurations
    with pytest.raises(ValueError, match=message):
        VideoMSModel(config)


def test_a_mask_that_shows_as_much_as_is_kept_is_refused_when_a_model_is_built(tiny_config):
    with pytest.raises(ValueError, match=r"keeps 19 and mask_ratio 0\.6 shows 25"):
        VideoMSForPreTraining(tiny_config(mask_ratio=0.6))


@pytest.mark.parametrize("selection", ["random", "tube", "none"])
def test_one_tubelet_is_fine_where_motion_is_not_asked_for(tiny_config, selection):
    VideoMSModel(tiny_config(num_frames=2, token_selection=selection))


@pytest.mark.parametrize(
    "size, width, depth, heads, mlp, decoder_width, decoder_heads",
    [
        ("small", 384, 12, 6, 1536, 192, 3),
        ("base", 768, 12, 12, 3072, 384, 6),
        ("large", 1024, 24, 16, 4096, 512, 8),
        ("huge", 1280, 32, 16, 5120, 640, 8),
    ],
)
def test_named_sizes_are_the_papers(size, width, depth, heads, mlp, decoder_width, decoder_heads):
    config = VideoMSConfig.from_size(size, num_frames=32)
    assert config.num_frames == 32
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (width, depth, heads)
    assert (config.intermediate_size, config.decoder_num_hidden_layers) == (mlp, 4)
    assert (config.decoder_hidden_size, config.decoder_num_attention_heads) == (decoder_width, decoder_heads)
    assert config.decoder_intermediate_size == 4 * decoder_width


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'tiny'.*'small'"):
        VideoMSConfig.from_size("tiny")


def test_the_default_is_the_base_size():
    assert VideoMSConfig().to_dict() == VideoMSConfig.from_size("base").to_dict()


def test_token_grid_is_time_height_width():
    config = VideoMSConfig(num_frames=8, image_size=[64, 96], patch_size=[16, 8])
    assert config.token_grid == (4, 4, 12)
    assert config.num_tokens == 192


@pytest.mark.parametrize("ratio, frames", [(1.0, 16), (1.5, 24), (1.2, 20), (2, 32)])
def test_candidate_frames_are_whole_tubelets(ratio, frames):
    assert VideoMSConfig(candidate_ratio=ratio).num_candidate_frames == frames


def test_configuration_survives_json(tmp_path):
    config = VideoMSConfig(image_size=[64, 96], keep_ratio=1, token_selection="tube", num_labels=7)
    config.save_pretrained(tmp_path)
    assert VideoMSConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_class_numbers_given_as_strings_become_numbers(tmp_path, tiny_config):
    tiny_config().save_pretrained(tmp_path)
    words = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": "0", "b": "1"}}
    late = VideoMSConfig()
    late.id2label, late.label2id = words["id2label"], words["label2id"]
    for config in (VideoMSConfig(**words), VideoMSConfig.from_pretrained(tmp_path, **words), late):
        assert config.id2label == {0: "a", 1: "b"} and config.label2id == {"a": 0, "b": 1}
    late.id2label = None
    assert late.id2label is None


def test_a_field_set_out_of_range_is_refused_when_saved_and_when_a_model_is_built(tmp_path, tiny_config):
    config = tiny_config()
    VideoMSModel(config).save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="keep_ratio is 3; it must be"):  # set after construction
        VideoMSModel.from_pretrained(tmp_path, keep_ratio=3)
    config.keep_ratio = 2
    for use in (VideoMSModel, VideoMSForPreTraining, lambda config: config.save_pretrained(tmp_path)):
        with pytest.raises(StrictDataclassError, match="keep_ratio is 2; it must be"):
            use(config)


def test_an_unknown_selection_is_refused_whenever_it_is_set():
    with pytest.raises(StrictDataclassError, match="token_selection.*'motion', 'random', 'tube', 'none'.*fast"):
        VideoMSConfig().token_selection = "fast"


def test_whole_numbers_are_fine_as_mean_and_deviation():
    assert VideoMSConfig(image_mean=[0, 0, 0], image_std=(1, 1, 1.0)).image_std == (1, 1, 1)


def test_a_number_of_tokens_replaces_the_keep_ratio(tmp_path, tiny_config):
    assert VideoMSConfig().keep_ratio == 0.6 and VideoMSConfig().num_kept_tokens is None
    config = tiny_config(num_kept_tokens=20)
    assert config.keep_ratio is None and config.budget == ("num_kept_tokens", 20)
    config.save_pretrained(tmp_path / "number"), tiny_config(keep_ratio=0.3).save_pretrained(tmp_path / "share")
    for name, saved in (("number", ("num_kept_tokens", 20)), ("share", ("keep_ratio", 0.3))):
        assert VideoMSConfig.from_pretrained(tmp_path / name).budget == saved
        for given in (("num_kept_tokens", 7), ("keep_ratio", 0.5)):  # whatever was saved
            assert VideoMSConfig.from_pretrained(tmp_path / name, **dict([given])).budget == given


def test_a_share_and_a_number_of_tokens_together_are_refused(tmp_path, tiny_config):
    both = {"keep_ratio": 0.5, "num_kept_tokens": 20}
    message = "keep_ratio is 0.5 and num_kept_tokens 20; set one"
    tiny_config().save_pretrained(tmp_path)
    for make in (tiny_config, lambda **fields: VideoMSConfig.from_pretrained(tmp_path, **fields)):
        with pytest.raises(StrictDataclassError, match=message):
            make(**both)
    config = tiny_config(keep_ratio=0.5)
    config.num_kept_tokens = 20  # without setting keep_ratio to None
    with pytest.raises(StrictDataclassError, match=message):
        VideoMSModel(config)
    with pytest.raises(ValueError, match=message):
        VideoMSModel(tiny_config())(torch.randn(1, 8, 3, 32, 32), **both)
