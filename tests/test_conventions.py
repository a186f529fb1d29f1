"""What transformers requires of its models: loading, saving, recording, compiling, exporting, adapters."""

import copy
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    set_seed,
)
from transformers.utils import output_capturing

from tests.processes import run_program
from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSModel
from videoms_hf.layers_videoms import sinusoid_table

from .conftest import randomize


ALL = [VideoMSModel, VideoMSForPreTraining, VideoMSForVideoClassification]
HEADS = ALL[1:]


def clips(batch=2):
    return torch.randn(batch, 8, 3, 32, 32)


def first_tensor(outputs):
    return outputs.logits if "logits" in outputs else outputs.last_hidden_state


def test_a_configuration_keeps_what_every_configuration_has(tmp_path):
    kept = {
        "return_dict": False,
        "output_hidden_states": True,
        "chunk_size_feed_forward": 5,
        "architectures": ["Mine"],
        "id2label": {0: "a", 1: "b", 2: "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
        "problem_type": "regression",
    }
    config = VideoMSConfig(**kept, dtype="float16", image_size=[32, 48])
    assert {name: getattr(config, name) for name in kept} == kept
    assert config.num_labels == 3 and str(config.dtype).endswith("float16")
    config.save_pretrained(tmp_path / "sub")
    assert VideoMSConfig.from_pretrained(tmp_path, subfolder="sub").to_dict() == config.to_dict()
    config.to_json_file(tmp_path / "config.json")
    assert VideoMSConfig.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()
    config.num_labels = 5
    assert len(config.id2label) == 5
    VideoMSConfig(hidden_size=32)  # 12 heads do not divide it: an error of the model, not of the configuration


@pytest.mark.parametrize("cls", ALL)
def test_a_saved_model_loads_with_every_weight(tiny_config, cls, tmp_path):
    model = randomize(cls(tiny_config(num_labels=3))).eval()
    model.save_pretrained(tmp_path)
    loaded, report = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = clips()
    assert first_tensor(loaded.eval()(pixels)).equal(first_tensor(model(pixels)))


@pytest.mark.parametrize("cls", ALL)
def test_position_tables_are_rebuilt_on_loading_and_saved_nowhere(tiny_config, cls, tmp_path):
    cls(tiny_config()).save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    tables = dict(loaded.named_buffers())
    assert tables and not set(tables) & set(loaded.state_dict())
    for table in tables.values():
        assert table.equal(sinusoid_table(*table.shape))


@pytest.mark.parametrize(
    "auto, cls",
    [
        (AutoModel, VideoMSModel),
        (AutoModelForPreTraining, VideoMSForPreTraining),
        (AutoModelForVideoClassification, VideoMSForVideoClassification),
    ],
)
def test_auto_classes_find_the_models(tiny_config, auto, cls, tmp_path):
    model = randomize(cls(tiny_config()))
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "videoms"
    loaded = auto.from_pretrained(tmp_path)
    assert type(loaded) is cls
    assert all(a.equal(b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True))


def test_finetuning_takes_the_encoder_and_reports_what_it_leaves(tiny_config, tmp_path):
    pretrained = randomize(VideoMSForPreTraining(tiny_config()))
    pretrained.save_pretrained(tmp_path)
    model, report = VideoMSForVideoClassification.from_pretrained(tmp_path, num_labels=4, output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias", "fc_norm.weight", "fc_norm.bias"}
    left = {name for name in pretrained.state_dict() if name not in model.state_dict()}
    assert set(report["unexpected_keys"]) == left
    assert {name.split(".")[0] for name in left} == {"decoder", "encoder_to_decoder", "mask_token", "videoms"}
    for name in left:
        assert not name.startswith("videoms") or name.startswith("videoms.layernorm")
    for name, value in model.videoms.state_dict().items():
        assert value.equal(pretrained.videoms.state_dict()[name])


def test_a_base_model_loads_into_heads_and_back(tiny_config, tmp_path):
    base = randomize(VideoMSModel(tiny_config()))
    base.save_pretrained(tmp_path / "base")
    head = VideoMSForPreTraining.from_pretrained(tmp_path / "base")
    assert all(a.equal(b) for a, b in zip(head.videoms.parameters(), base.parameters(), strict=True))
    head.save_pretrained(tmp_path / "head")
    again, report = VideoMSModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not report["missing_keys"]
    assert all(a.equal(b) for a, b in zip(again.parameters(), base.parameters(), strict=True))


@pytest.mark.parametrize("cls", ALL)
def test_weights_made_on_meta_are_initialised_as_those_made_directly(tiny_config, cls):
    set_seed(5)
    direct = cls(tiny_config())
    with torch.device("meta"):
        late = cls(tiny_config())
    late.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*late.parameters(), *late.buffers()]:
            tensor.fill_(77)
    set_seed(5)
    late.init_weights()
    for (name, a), b in zip(direct.named_buffers(), late.buffers(), strict=True):
        assert a.equal(b), name
    for name, parameter in late.named_parameters():
        assert not (parameter == 77).any(), name
    set_seed(5)
    direct.apply(lambda module: setattr(module, "_is_hf_initialized", False))
    direct.init_weights()
    for (name, a), b in zip(direct.named_parameters(), late.parameters(), strict=True):
        assert a.equal(b), name


@pytest.mark.parametrize("cls", ALL)
def test_hidden_states_and_attentions_are_the_encoders(tiny_config, cls):
    model = cls(tiny_config()).eval()
    model.set_attn_implementation("eager")
    outputs = model(clips(), output_hidden_states=True, output_attentions=True)
    num_encoded = 6 if cls is VideoMSForPreTraining else 38
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, num_encoded, 16)] * 3
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, 2, num_encoded, num_encoded)] * 2
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(2, 2, num_encoded))
    assert model(clips()).hidden_states is None
    assert isinstance(model(clips(), return_dict=False), tuple)


@pytest.mark.parametrize("cls", ALL)
def test_recording_can_be_asked_for_by_the_configuration(tiny_config, cls):
    model = cls(tiny_config(output_hidden_states=True, attn_implementation="eager")).eval()
    outputs = model(clips(), output_attentions=True)
    assert len(outputs.hidden_states) == 3 and len(outputs.attentions) == 2


@pytest.mark.skipif(not hasattr(output_capturing, "selected_hidden_states"), reason="not in this transformers")
@pytest.mark.parametrize("cls", ALL)
def test_hidden_states_can_be_asked_for_by_number(tiny_config, cls):
    model = cls(tiny_config()).eval()
    pixels = clips()
    every = model(pixels, output_hidden_states=True).hidden_states
    some = model(pixels, output_hidden_states=[0, -1]).hidden_states
    assert some[0].equal(every[0]) and some[1] is None and some[2].equal(every[2])


@pytest.mark.parametrize("cls", ALL)
def test_tuples_hold_what_the_named_outputs_hold(tiny_config, cls):
    model = cls(tiny_config(return_dict=False)).eval()
    pixels = clips()
    named = model(pixels, return_dict=True)
    for values in (model(pixels), model(pixels, return_dict=False)):
        assert isinstance(values, tuple)
        assert all(a.equal(b) for a, b in zip(values, named.to_tuple(), strict=True))


@pytest.mark.parametrize("cls", ALL)
def test_gradients_reach_recorded_states_and_required_inputs(tiny_config, cls):
    model = cls(tiny_config(attn_implementation="eager"))
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Module) and model.get_output_embeddings() is None
    model.set_input_embeddings(new := copy.deepcopy(embeddings))
    assert model.get_input_embeddings() is new
    model.enable_input_require_grads()
    outputs = model(clips(), output_hidden_states=True, output_attentions=True)
    outputs.hidden_states[0].retain_grad(), outputs.attentions[0].retain_grad()
    first_tensor(outputs).sum().backward()
    assert outputs.hidden_states[0].grad is not None and outputs.attentions[0].grad is not None


@pytest.mark.parametrize("cls", ALL)
def test_a_clip_gets_the_same_in_any_batch(tiny_config, cls):
    model = randomize(cls(tiny_config())).eval()
    pixels = clips(5)
    pixels[3] = pixels[3, :1]  # ties everywhere
    together = model(pixels)
    for i in range(5):
        alone = model(pixels[i : i + 1])
        for name in ("logits", "last_hidden_state", "kept_ids", "visible_ids", "target_ids", "importance"):
            if together.get(name) is not None:
                torch.testing.assert_close(together[name][i : i + 1], alone[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cls", ALL)
def test_weights_on_disk_are_fetched_layer_by_layer(tiny_config, cls, tmp_path):
    """As device_map="auto" does for a model that is larger than its devices."""
    model = randomize(cls(tiny_config())).eval()
    model.save_pretrained(tmp_path)
    prefix = "" if cls is VideoMSModel else "videoms."
    places = {name: "disk" for name, child in model.named_children() if list(child.parameters())}
    places |= {f"{prefix}{name}": "disk" for name in ("embeddings", "encoder", "layernorm")}
    places |= {name: "cpu" for name, _ in model.named_parameters(recurse=False)}
    places.pop("videoms", None)
    if cls is VideoMSForVideoClassification:
        places.pop("videoms.layernorm")
    mapped = cls.from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offload").eval()
    assert any(parameter.is_meta for parameter in mapped.parameters())
    pixels = clips()
    with torch.no_grad():
        torch.testing.assert_close(first_tensor(mapped(pixels)), first_tensor(model(pixels)))


def test_a_head_of_another_size_is_refused_or_newly_initialised(tiny_config, tmp_path):
    VideoMSForVideoClassification(tiny_config(num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size"):
        VideoMSForVideoClassification.from_pretrained(tmp_path, num_labels=5)
    model = VideoMSForVideoClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (5, 16) and model.classifier.weight.isfinite().all()


def test_attention_implementation_can_be_changed_everywhere_afterwards(tiny_config):
    model = VideoMSForPreTraining(tiny_config())
    model.set_attn_implementation("eager")
    attentions = [module for module in model.modules() if type(module).__name__ == "VideoMSSelfAttention"]
    assert len(attentions) == 4
    assert all(attention.config._attn_implementation == "eager" for attention in attentions)


@pytest.mark.parametrize("cls", HEADS)
def test_gradient_checkpointing_changes_no_gradient(tiny_config, cls):
    config = tiny_config(drop_path_rate=0.3, num_labels=3)
    model = randomize(cls(config)).train()
    inputs = {"labels": torch.tensor([0, 2])} if cls is VideoMSForVideoClassification else {}
    pixels, gradients = clips(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(1)
        model(pixels, **inputs).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_load_runs(tiny_config, cls, dtype, tmp_path):
    cls(tiny_config()).save_pretrained(tmp_path)
    model = cls.from_pretrained(tmp_path, dtype=dtype).eval()
    outputs = model(clips().to(dtype))
    assert first_tensor(outputs).dtype == dtype and first_tensor(outputs).isfinite().all()
    assert outputs.importance.dtype == torch.float32
    if cls is VideoMSForPreTraining:
        assert outputs.loss.dtype == torch.float32


def test_device_map_auto_loads_and_runs(tiny_config, tmp_path):
    model = randomize(VideoMSForVideoClassification(tiny_config())).eval()
    model.save_pretrained(tmp_path)
    mapped = VideoMSForVideoClassification.from_pretrained(tmp_path, device_map="auto").eval()
    pixels = clips()
    torch.testing.assert_close(mapped(pixels.to(mapped.device)).logits.cpu(), model(pixels).logits)


@pytest.mark.parametrize(
    "cls, training",
    [
        (VideoMSForPreTraining, True),
        (VideoMSForVideoClassification, False),
        pytest.param(VideoMSForPreTraining, False, marks=pytest.mark.slow),
        pytest.param(VideoMSForVideoClassification, True, marks=pytest.mark.slow),
    ],
)
def test_one_graph_without_breaks_gives_the_same_results(tiny_config, cls, training):
    model = randomize(cls(tiny_config(num_labels=3))).train(training)
    torch.compiler.reset()  # otherwise the length is dynamic after clips of other lengths
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    pixels = clips()
    inputs = {"noise": torch.rand(2, 19)} if cls is VideoMSForPreTraining else {"labels": torch.tensor([0, 2])}
    expected, outputs = model(pixels, **inputs), compiled(pixels, **inputs)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=1e-4, atol=1e-5)
    if training:
        expected.loss.backward()
        outputs.loss.backward()
        for a, b in zip(model.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


class LogitsOnly(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values).logits


@pytest.mark.parametrize("cls", HEADS)
def test_export_with_a_free_batch_gives_the_same_logits(tiny_config, cls):
    model = LogitsOnly(randomize(cls(tiny_config(num_labels=3))).eval())
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    with torch.no_grad():
        program = torch.export.export(model, (clips(2),), dynamic_shapes=shapes)
        pixels = clips(3)
        torch.testing.assert_close(program.module()(pixels), model(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnx_gives_the_same_predicted_pixels(tiny_config, tmp_path):
    """Classifiers: test_export.py."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="an extra: pip install -e .[test]")
    pytest.importorskip("onnxscript", reason="an extra: pip install -e .[test]")
    model = LogitsOnly(randomize(VideoMSForPreTraining(tiny_config())).eval())
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    path = tmp_path / "model.onnx"
    with torch.no_grad():
        torch.onnx.export(model, (clips(2),), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
        pixels = clips(3)
        pixels[1] = pixels[1, :1]  # ties everywhere
        expected = model(pixels)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_lora_on_query_and_value_trains_and_merges(tiny_config):
    peft = pytest.importorskip("peft", reason="an extra: pip install -e .[test]")
    model = randomize(VideoMSForVideoClassification(tiny_config(num_labels=3)))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "value"], lora_alpha=4))
    adapted.train()
    adapted(pixel_values=clips(), labels=torch.tensor([0, 2])).loss.backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert trained and all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted.eval()
    pixels = clips()
    expected = adapted(pixel_values=pixels).logits
    torch.testing.assert_close(adapted.merge_and_unload()(pixels).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stance", ["force_eager", pytest.param("default", marks=pytest.mark.slow)])
def test_flex_attention_agrees_with_eager(tiny_config, stance):
    """transformers compiles flex attention, which takes most of a minute; "force_eager" runs it uncompiled."""
    config = tiny_config(hidden_size=32, num_attention_heads=2)  # flex attention needs heads of at least 16
    model = randomize(VideoMSForVideoClassification(config)).eval()
    pixels, results = clips(), []
    for implementation in ("eager", "flex_attention"):
        model.set_attn_implementation(implementation)
        with torch.no_grad(), torch.compiler.set_stance(stance):
            results.append(model(pixels).logits)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_configuration_given_to_a_model_is_not_changed(tiny_config):
    config = tiny_config(num_labels=3)
    before = config.to_dict()
    for cls in ALL:
        cls(config)
    assert config.to_dict() == before


def test_import_leaves_the_decoder_and_the_data_libraries_alone():
    """They cost seconds; only reading a video needs them."""
    code = "import sys, videoms_hf; print([m for m in ('av', 'datasets', 'evaluate') if m in sys.modules])"
    result = run_program([sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
