"""Demo of a model in the browser: what it keeps of a video, what it answers, and what that costs.

python scripts/space/app.py --model runs/mine
python scripts/space/app.py      (random weights, which already select by motion)

`videoms publish runs/mine someone/videoms-mine --space someone/videoms-demo` uploads this folder as a Space that reads
the model's name from its variable VIDEOMS_MODEL. Nothing is stored: every result depends on its own request alone and
is part of the page, and uploads are deleted after an hour and at the end.
"""

import argparse
import base64
import html
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import gradio as gr
import numpy as np
from transformers import set_seed

from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSModel, VideoMSVideoProcessor
from videoms_hf.command_line import CommandParser, run
from videoms_hf.decoding_videoms import VideoDecodeError
from videoms_hf.evaluation.classifier import load_any, load_processor
from videoms_hf.experiments.synthetic import ENCODINGS, encode_video, render_motion_clip
from videoms_hf.messages import printable
from videoms_hf.modeling_videoms import VideoMSPreTrainedModel
from videoms_hf.readers import open_video
from videoms_hf.visualization.animation import image_animation
from videoms_hf.visualization.clips import (
    ClipTokens,
    ClipView,
    changed_config,
    clip_rows,
    clip_windows,
    selection_strip,
    usable_length,
    view_windows,
)
from videoms_hf.visualization.picture import MARGIN, Panels


MAX_BYTES, MAX_SECONDS, KEPT_SECONDS = 50 << 20, 60.0, 3600  # of uploads
TIMING_SECONDS = 0.4  # small models run up to 5 times, and the fastest counts
TYPES = (".mp4", ".webm", ".mov", ".m4v", ".mkv", ".avi", ".mpg", ".mpeg")
PANEL_WIDTH, SLOWEST = 392, 12.0  # pixels, frames per second of the animations
EXAMPLES = {"right": 52, "up_left": 35, "down": 48, "up_right": 39}  # motion: seed
SELECTORS = ("motion", "random", "tube")
TITLES = {"kept": "Kept tokens", "compare": "Compare selectors", "reconstruction": "Reconstruction"}
EMPTY = '<div class="vm-empty">Upload a video, record one, or choose an example.</div>'
WAITING = '<div class="vm-empty">Computing ...</div>'
HEAD = """# VideoMS: compute on what moves
Most of a video stands still. VideoMS scores each token by its motion, keeps the share that moves most and drops the
rest **before** the transformer. Choose a video and a share: see what is kept, what the model answers, what it costs.
"""
# The choice between upload and camera is hidden by the style sheet where there is no camera.
FIND_CAMERA = """async () => {
  const devices = await navigator.mediaDevices?.enumerateDevices().catch(() => []) ?? [];
  const shown = devices.some(device => device.kind === "videoinput") ? "flex" : "none";
  document.documentElement.style.setProperty("--vm-camera", shown);
}"""


class Demo:
    """A model's answers as HTML. Methods only depend on their arguments, and one at a time runs the model."""

    def __init__(self, model: VideoMSPreTrainedModel, processor: VideoMSVideoProcessor, name: str):
        self.model, self.processor, self.name, self.lock = model, processor, name, threading.Lock()
        self.encoder = model.base_model if isinstance(model, VideoMSForPreTraining) else model
        config = model.config
        self.ratio = round(config.kept_share, 2)
        config.keep_ratio, config.num_kept_tokens = self.ratio, None  # the slider's
        self.own = "motion" if config.token_selection == "none" else config.token_selection
        self.tabs = [tab for tab in TITLES if tab != "reconstruction" or model is not self.encoder]

    def describe(self) -> str:
        config, steps = self.model.config, self.model.config.token_grid
        size = " x ".join(map(str, config.image_shape))
        text = (
            f"Model: **{html.escape(self.name)}**, {self.model.num_parameters() / 1e6:.3g} million parameters; a clip"
        )
        return f"{text} is {config.num_frames} frames of {size}, {np.prod(steps)} tokens."

    def show(self, tab: str, path: str | None, moment: float, ratio: float) -> str:
        """The content of a tab for the clip at `moment` percent of a video, or why the video cannot be used."""
        if path is None:
            return EMPTY
        try:
            return getattr(self, f"_{tab}")(path, moment, ratio)
        except VideoDecodeError as error:
            reason = error.reason
        except OSError as error:
            reason = error.strerror or "it cannot be read"
        except ValueError as error:
            reason = str(error)
        return f'<div class="vm-error" role="alert"><b>This video cannot be used.</b><br>{_text(reason)}</div>'

    def show_tabs(self, tab: str, path: str | None, moment: float, ratio: float) -> list[str]:
        """The contents of all tabs: the others are computed when they are opened."""
        return [self.show(tab, path, moment, ratio) if other == tab else WAITING for other in self.tabs]

    def _view(self, model: VideoMSPreTrainedModel, path: str, moment: float, ratio: float, names: Sequence[str] = ()):
        """What `model` does with a clip, seconds of the video's frames, and its number of frames."""
        if Path(path).suffix.lower() not in TYPES:
            raise ValueError(f"Its name ends in {Path(path).suffix!r}; it must end in one of {', '.join(TYPES)}.")
        if (size := os.path.getsize(path)) > MAX_BYTES:
            raise ValueError(f"It has {size >> 20} MB; at most {MAX_BYTES >> 20} MB are allowed: cut or compress it.")
        config = self.model.config
        # Its bytes, not its name: nothing but this file can be opened for it.
        with open_video(Path(path).read_bytes()) as video:
            info = video.info
            if info.duration_seconds > MAX_SECONDS:
                raise ValueError(
                    f"It takes {info.duration_seconds:.0f} s; at most {MAX_SECONDS:.0f} s are allowed: cut it."
                )
            length = usable_length(video)
            windows = clip_windows(length, config.num_candidate_frames, self.processor.frame_stride or 4)
            window = windows[round(moment / 100 * (len(windows) - 1))][:1]
            fields = {"keep_ratio": ratio, "pretraining_keep_ratio": ratio}
            with self.lock, changed_config(config, **fields), changed_config(model.config, **fields):
                views, end = [], time.monotonic() + TIMING_SECONDS
                for (view,) in view_windows(video, [window] * 5, model, self.processor, names):
                    views.append(view)
                    if time.monotonic() > end:
                        break
        fastest = {name: min(view.looks[name].seconds for view in views) for name in view.looks}
        looks = {name: look._replace(seconds=fastest[name]) for name, look in view.looks.items()}
        return view._replace(looks=looks), info.fps or 25.0, length

    def _kept(self, path: str, moment: float, ratio: float) -> str:
        view, fps, length = self._view(self.encoder, path, moment, ratio, (self.own, "none"))
        kept, full = view.looks[self.own], view.looks["none"]
        own = view._replace(looks={self.own: kept})
        cheaper, faster = view.gmacs["none"] / view.gmacs[self.own], full.seconds / kept.seconds
        tiles = _tiles(
            (f"{int(kept.kept.sum())} of {kept.kept.numel()}", f"tokens kept ({kept.kept.float().mean().item():.0%})"),
            (f"{_motion_share(kept):.0%}", "of all motion is in them"),
            (f"{view.gmacs[self.own]:.3g} GMACs", f"{view.gmacs['none']:.3g} on all tokens: {cheaper:.1f}x as many"),
            (f"{1000 * kept.seconds:.0f} ms", f"{1000 * full.seconds:.0f} ms on all tokens: {faster:.1f}x as long"),
        )
        picture = self._picture(own, ("clip", "kept", "frames"), fps)
        return picture + _place(view, fps, length) + tiles + self._bars(kept, full)

    def _bars(self, kept: ClipTokens, full: ClipTokens) -> str:
        if kept.probabilities is None:
            return (
                '<p class="vm-note">This model has no classes, so there is no answer to show. '
                "<code>videoms finetune</code> gives it some.</p>"
            )
        cells = []
        for label in kept.probabilities.argsort(descending=True)[:5].tolist():
            cells.append(f'<span class="vm-name">{_text(self.model.config.id2label[label])}</span>')
            for kind, look in (("vm-kept", kept), ("vm-all", full)):
                share = look.probabilities[label].item()
                cells.append(f'<span class="{kind}"><i style="width: {100 * share:.1f}%"></i></span>')
                cells.append(f'<span class="vm-value">{share:.1%}</span>')
            cells.append('<span class="vm-gap"></span>')
        key = (
            'Top 5 with <span class="vm-key" style="background: #ff9d00"></span>the kept tokens'
            '<span class="vm-key" style="background: #9aa0a8"></span>all tokens'
        )
        return f'<p class="vm-note">{key}</p><div class="vm-bars">{"".join(cells)}</div>'

    def _compare(self, path: str, moment: float, ratio: float) -> str:
        view, fps, length = self._view(self.encoder, path, moment, ratio, SELECTORS)
        rows = "".join(
            f"<tr><td>{name}</td><td>{int(look.kept.sum())}</td><td>{_motion_share(look):.0%}</td><td>"
            f"{view.gmacs[name]:.3g}</td><td>{1000 * look.seconds:.0f}</td><td>{_text(look.answer or '-')}</td></tr>"
            for name, look in view.looks.items()
        )
        head = "<th>selector</th><th>tokens</th><th>motion in them</th><th>GMACs</th><th>ms</th><th>answer</th>"
        table = f'<table class="vm-table"><tr>{head}</tr>{rows}</table>'
        note = (
            '<p class="vm-note">Random and tube selection do not look at the video: what they hold of its motion is '
            "about the keep ratio.</p>"
        )
        return self._picture(view, ("clip", "kept"), fps) + _place(view, fps, length) + table + note

    def _reconstruction(self, path: str, moment: float, ratio: float) -> str:
        view, fps, length = self._view(self.model, path, moment, ratio)
        ((name, look),) = view.looks.items()
        tiles = _tiles(
            (f"{int(look.visible.sum())}", "tokens visible to the encoder"),
            (f"{int(look.target.sum())}", "tokens predicted by the decoder"),
            (f"{int((~look.kept).sum())}", "tokens dropped: never computed on"),
            (f"{view.gmacs[name]:.3g} GMACs", f"{1000 * look.seconds:.0f} ms, {look.answer}"),
        )
        note = '<p class="vm-note">Mean and contrast of predicted patches are the original\'s.</p>'
        note = note if self.model.config.norm_pix_loss else ""
        return self._picture(view, ("clip", "roles", "reconstruction"), fps) + _place(view, fps, length) + tiles + note

    def _picture(self, view: ClipView, rows: Sequence[str], fps: float) -> str:
        tubelet = self.model.config.tubelet_size
        rows, has_strip = clip_rows(view, tubelet, rows, PANEL_WIDTH), "frames" in rows
        strip = selection_strip(view, tubelet, Panels(rows).blank.width - 2 * MARGIN) if has_strip else None
        panels = Panels(rows, strip, has_heading=False)
        pictures = [panels.draw(i, strip_part=i // tubelet) for i in range(len(view.frames))]
        rate = min(max(fps / max(view.numbers[1] - view.numbers[0], 1), 5.0), SLOWEST)
        data = base64.b64encode(image_animation(pictures, "webp", rate)).decode()
        title = ", ".join(row.caption for row in rows)
        return f'<img class="vm-picture" alt="{_text(title)}" src="data:image/webp;base64,{data}">'


def _motion_share(look: ClipTokens) -> float:
    return (look.importance[look.kept].sum() / look.importance.sum().clamp_min(1e-12)).item()


def _place(view: ClipView, fps: float, length: int) -> str:
    first, last = view.numbers[[0, -1]]
    step = view.numbers[1] - view.numbers[0]
    place = f"from {first / fps:.1f} to {last / fps:.1f} s of {length / fps:.1f} s"
    return f'<p class="vm-note">{len(view.numbers)} frames, {step} apart, {place}</p>'


def _tiles(*tiles: tuple[str, str]) -> str:
    cells = "".join(
        f'<div class="vm-tile"><b>{_text(big)}</b><span>{_text(small)}</span></div>' for big, small in tiles
    )
    return f'<div class="vm-tiles">{cells}</div>'


def _text(text: object) -> str:
    return html.escape(printable(text))


def render_examples(folder: Path) -> list[str]:
    """Small videos that are rendered here, one for each motion."""
    folder.mkdir()
    codec, suffix, options = ENCODINGS[0]
    paths = []
    for motion, seed in EXAMPLES.items():
        path = folder / f"{motion}{suffix}"
        encode_video(render_motion_clip(motion, 224, 64, np.random.default_rng(seed)), path, codec, options)
        paths.append(str(path))
    return paths


def build(demo: Demo, examples: Sequence[str]) -> gr.Blocks:
    """The page."""
    own = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "model", "show_progress": "minimal"}
    with gr.Blocks(title="VideoMS", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(HEAD)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                video = gr.Video(
                    examples[0], sources=["upload", "webcam"], label="Video", height=260, elem_id="video", loop=True
                )
                ratio = gr.Slider(
                    0.05,
                    1,
                    demo.ratio,
                    step=0.05,
                    label="Keep ratio",
                    info="Share of the tokens to keep",
                    elem_id="ratio",
                )
                moment = gr.Slider(
                    0, 100, 50, step=5, label="Moment", info="Where in the video, in percent", elem_id="moment"
                )
                chosen = gr.Examples(
                    [[path] for path in examples], [video], label="Examples, rendered by this app", elem_id="examples"
                )
                limits = (
                    f"Videos of at most {MAX_BYTES >> 20} MB and {MAX_SECONDS:.0f} s, also those that the browser "
                    "cannot play. Results are not stored; uploads are deleted after an hour."
                )
                gr.Markdown(f"{demo.describe()}\n\n{limits}", elem_classes="vm-note")
            with gr.Column(scale=5, min_width=420):
                for _ in range(2):  # the first time is slow, and would be shown
                    first = demo.show_tabs("kept", examples[0], 50, demo.ratio)
                tabs, contents = [], []
                for tab, content in zip(demo.tabs, first, strict=True):
                    with gr.Tab(TITLES[tab], id=tab) as box:
                        contents.append(gr.HTML(content, elem_id=f"{tab}-result"))
                    tabs.append(box)
        opened = gr.State("kept")
        given, hidden = [video, moment, ratio], {"show_progress": "hidden"}
        # Not `change`, which every visit would trigger: the first example's result is part of the page.
        update = {"fn": demo.show_tabs, "inputs": [opened, *given], "outputs": contents, **own}
        changes = [video.input, video.stop_recording, video.clear, moment.input, ratio.input]
        gr.on(changes, trigger_mode="always_last", **update)
        chosen.load_input_event.then(**update)
        for tab, box in zip(demo.tabs, tabs, strict=True):
            box.select(partial(_open, demo, tab), [opened, *given], [opened, *contents], **own | hidden)
        page.load(None, js=FIND_CAMERA)
    return page.queue(max_size=30)


def _open(demo: Demo, tab: str, opened: str, *given) -> list:
    """`tab` with the contents of all tabs; nothing for the one that is open, which every visit selects."""
    return [tab, *demo.show_tabs(tab, *given)] if tab != opened else [gr.skip()] * (1 + len(demo.tabs))


def start(demo: Demo, folder: Path, port: int | None = None, **options) -> gr.Blocks:
    """The running app, whose files are all in `folder`. It listens to this machine alone, except on a Space."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    private = [Path.cwd(), Path.home(), Path(__file__).resolve().parent]
    page = build(demo, render_examples(folder / "examples"))
    page.launch(
        server_port=port,
        max_file_size=MAX_BYTES,
        allowed_paths=[],
        blocked_paths=[str(place) for place in private if not folder.resolve().is_relative_to(place)],
        ssr_mode=False,
        footer_links=["settings"],
        theme=gr.themes.Default(primary_hue="orange", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css_paths=Path(__file__).with_name("style.css"),
        **options,
    )
    return page


def load(source: str | None) -> Demo:
    if source:
        name = Path(source).resolve().name if os.path.isdir(source) else source
        return Demo(load_any(source), load_processor(source), name)
    set_seed(0)
    model = VideoMSModel(VideoMSConfig.from_size("small", keep_ratio=0.3)).eval()
    return Demo(model, VideoMSVideoProcessor(), "random weights")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    parser.add_argument(
        "--model",
        default=os.environ.get("VIDEOMS_MODEL"),
        help="any saved model: a folder or a Hub name; default: VIDEOMS_MODEL, or random weights",
    )
    parser.add_argument("--port", type=int, help="default: GRADIO_SERVER_PORT, or the first free one from 7860")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder is removed then, too
    with tempfile.TemporaryDirectory(prefix="videoms-space-") as folder:
        start(load(args.model), Path(folder), args.port)


if __name__ == "__main__":
    sys.exit(run(main))
