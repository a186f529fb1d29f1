"""The Gradio Space: what its tabs say, what it refuses, what it serves, and that users do not mix."""

import ast
import base64
import io
import json
import re
import runpy
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import randomize
from tests.evaluation_files import CLASSES, save_classifier
from tests.video_files import write_ramp, write_video
from videoms_hf import VideoMSForPreTraining, VideoMSForVideoClassification, VideoMSVideoProcessor, open_video
from videoms_hf.evaluation.classifier import load_processor
from videoms_hf.visualization.clips import clip_windows


ROOT = Path(__file__).parents[1]
SPACE = ROOT / "scripts" / "space"


def setup_argument(name: str):
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.keyword)]
    return next(ast.literal_eval(node.value) for node in calls if node.arg == name)


def test_the_space_installs_what_the_package_and_its_extra_ask_for():
    assert (SPACE / "requirements.txt").read_text().split() == setup_argument("install_requires")
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---\n")[1])
    assert header["sdk"] == "gradio" and (SPACE / header["app_file"]).is_file()
    assert '"space": ["gradio>=6.31,<7"]' in (SPACE.parents[1] / "setup.py").read_text()
    assert re.match(r"6\.(3[1-9]|[4-9]\d)\.", header["sdk_version"])
    assert len(header["short_description"]) <= 60  # the Hub refuses more


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio", reason='gradio is not installed: pip install -e ".[space]"')
    return runpy.run_path(str(SPACE / "app.py"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a classifier and videos: a red and a blue one in which a white square moves, and bad ones."""
    folder = tmp_path_factory.mktemp("space")
    save_classifier(folder / "model")
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        write_video(folder / f"{name}.mp4", moving_square(color))
    write_ramp(folder / "long.mp4", num_frames=61, step=1, fps=1)
    (folder / "secret.txt").write_text("the secret\n" * 50)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{folder / 'red.mp4'}\n#EXT-X-ENDLIST\n"
    (folder / "playlist.mp4").write_text(playlist)
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{folder / 'red.mp4'}'\n")
    (folder / "corrupt.mp4").write_bytes((folder / "red.mp4").read_bytes()[:300])
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def moving_square(color: tuple[int, int, int], num_frames: int = 32) -> np.ndarray:
    frames = np.broadcast_to(np.array(color, dtype=np.uint8), (num_frames, 32, 32, 3)).copy()
    for i in range(num_frames):
        column = 8 * (i // 2 % 4)
        frames[i, 8:16, column : column + 8] = 255
    return frames


@pytest.fixture(scope="module")
def demo(app, files):
    return app["load"](str(files / "model"))


def picture(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(re.search(r"data:image/webp;base64,([^\"]+)", content)[1])))


def mean_color(content: str) -> np.ndarray:
    return np.asarray(picture(content).convert("RGB").crop((20, 60, 380, 400))).mean(axis=(0, 1))  # of the clip


def test_the_first_tab_shows_the_clip_with_its_kept_tokens_and_answers_at_both_ratios(demo, files):
    content = demo.show("kept", str(files / "red.mp4"), 100, 0.25)
    assert "<b>16 of 64</b>" in content and "tokens kept (25%)" in content
    assert picture(content).n_frames == 8
    red, green, blue = mean_color(content)
    assert red > 150 and max(green, blue) < 100
    with open_video(files / "red.mp4") as video:
        numbers = clip_windows(32, 8, 2)[-1][0]
        clip = load_processor(str(files / "model"))(video.frames(numbers), do_sample_frames=False, return_tensors="pt")
    model = VideoMSForVideoClassification.from_pretrained(files / "model").eval()
    names = re.findall(r'class="vm-name">(\w+)<', content)
    shares = np.array(re.findall(r'class="vm-value">([\d.]+)%<', content), dtype=float).reshape(-1, 2)
    for column, ratio in enumerate((0.25, 1.0)):
        with torch.no_grad():
            expected = 100 * model(clip.pixel_values.view(1, 8, 3, 32, 32), keep_ratio=ratio).logits.softmax(-1)[0]
        found = dict(zip(names, shares[:, column], strict=True))
        assert found == pytest.approx(dict(zip(CLASSES, expected.tolist(), strict=True)), abs=0.06)
    assert (np.diff(shares[:, 0]) <= 0).all()
    gmacs = [model.flops(keep_ratio=ratio) / 1e9 for ratio in (0.25, 1.0)]
    assert f"<b>{gmacs[0]:.3g} GMACs</b>" in content and f"{gmacs[1]:.3g} on all tokens" in content


def test_selectors_are_compared_on_one_clip_and_the_configuration_stays(demo, files):
    before = demo.model.config.to_dict()
    content = demo.show("compare", str(files / "blue.mp4"), 0, 0.25)
    rows = re.findall(r"<tr><td>(\w+)</td><td>(\d+)</td><td>(\d+)%</td>", content)
    assert [name for name, _, _ in rows] == ["motion", "random", "tube"] and {count for _, count, _ in rows} == {"16"}
    shares = [int(share) for _, _, share in rows]
    assert shares[0] > 2 * max(shares[1:])  # the square is all that moves
    assert demo.model.config.to_dict() == before


def test_a_pretrained_model_has_a_reconstruction_and_no_answer(app, files, tiny_config):
    model = randomize(VideoMSForPreTraining(tiny_config(num_kept_tokens=32, keep_ratio=None))).eval()
    processor = VideoMSVideoProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    demo = app["Demo"](model, processor, "<mine>")
    assert (
        demo.tabs == ["kept", "compare", "reconstruction"] and demo.ratio == 0.5 and "&lt;mine&gt;" in demo.describe()
    )
    content = demo.show("reconstruction", str(files / "red.mp4"), 50, 0.5)
    assert [int(count) for count in re.findall(r"<b>(\d+)</b>", content)] == [6, 26, 32] and "loss" in content
    assert "has no classes" in demo.show("kept", str(files / "red.mp4"), 50, 0.5)
    assert 'role="alert"' in demo.show("reconstruction", str(files / "red.mp4"), 50, 0.05)  # nothing to predict


@pytest.mark.parametrize(
    "name, reason",
    [
        ("corrupt.mp4", "corrupt"),
        ("empty.mp4", "cannot read it"),
        ("long.mp4", "It takes 61 s; at most 60 s are allowed: cut it."),
        ("secret.txt", "must end in one of .mp4, "),
        ("playlist.mp4", "not a video file"),
        ("list.mp4", "not a video file"),
        ("absent.mp4", "No such file"),
    ],
)
def test_a_video_that_cannot_be_used_is_refused_with_the_reason(demo, files, name, reason):
    content = demo.show("kept", str(files / name), 50, 0.5)
    assert reason in content and 'role="alert"' in content and "<img" not in content
    assert str(files) not in content and "the secret" not in content


def test_a_file_above_the_limit_is_refused(app, demo, files, monkeypatch):
    monkeypatch.setitem(demo.show.__func__.__globals__, "MAX_BYTES", 1000)
    assert "at most 0 MB are allowed" in demo.show("kept", str(files / "red.mp4"), 50, 0.5)


# --- over http ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(app, demo, tmp_path_factory):
    """The running page and its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")
        page = app["start"](demo, tmp_path_factory.mktemp("served"), prevent_thread_lock=True, quiet=True)
        yield page, page.local_url.rstrip("/")
        page.close()


def fetch(address: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    request = urllib.request.Request(address, body, {"Content-Type": kind} if body is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, path: Path) -> tuple[int, bytes]:
    head = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'.encode()
    body = head + path.read_bytes() + b"\r\n--edge--\r\n"
    return fetch(f"{address}/gradio_api/upload", body, "multipart/form-data; boundary=edge")


def ask(address: str, path: str, session: str) -> dict:
    """What the page answers a browser that names a file as its upload."""
    events = json.loads(fetch(f"{address}/config")[1])["dependencies"]
    number = next(event["id"] for event in events if any(target[1] == "clear" for target in event["targets"]))
    data = [None, {"path": path, "meta": {"_type": "gradio.FileData"}}, 50, 0.5]
    job = {"data": data, "fn_index": number, "session_hash": session}
    status, said = fetch(f"{address}/gradio_api/queue/join", json.dumps(job).encode())
    assert status == 200, said
    events = fetch(f"{address}/gradio_api/queue/data?session_hash={session}")[1].decode().split("\n\n")
    events = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: ")]
    return next(event for event in events if event["msg"] == "process_completed")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../../../../etc/passwd", "{model}", "{code}", "/proc/self/environ", "setup.py"]
)
def test_no_file_of_the_machine_is_served(served, files, path):
    page, address = served
    path = path.format(model=files / "model" / "config.json", code=SPACE / "app.py")
    status, said = fetch(f"{address}/gradio_api/file={path}")
    assert status == 403 and b"root:" not in said and b"File not allowed" in said


@pytest.mark.parametrize("path", ["{folder}/red.mp4", "file://{folder}/red.mp4", "{address}/config", "/etc/passwd"])
def test_nothing_but_an_upload_is_analysed(served, files, path):
    path = path.format(folder=files, address=served[1])
    answer = ask(served[1], path, "thief")
    assert not answer["success"] and "webp" not in json.dumps(answer)
    assert fetch(f"{served[1]}/gradio_api/file={path}")[0] in (400, 403)  # nor fetched from a service of this machine


def test_two_users_at_once_get_their_own_results_and_their_uploads_are_deleted(served, files):
    from gradio.route_utils import delete_files_created_by_app

    page, address = served
    names = ["red", "blue"] * 2
    paths = {name: json.loads(upload(address, files / f"{name}.mp4")[1])[0] for name in ("red", "blue")}
    with ThreadPoolExecutor(4) as users:
        answers = list(users.map(lambda i: ask(address, paths[names[i]], f"user{i}"), range(4)))
    for name, answer in zip(names, answers, strict=True):
        assert answer["success"], answer
        red, _, blue = mean_color(answer["output"]["data"][0])
        assert (red > blue) == (name == "red")
    assert all(Path(path).is_file() for path in paths.values())
    delete_files_created_by_app(page, 0)  # as the app does every minute, with an hour
    assert not any(Path(path).exists() for path in paths.values()) and page.delete_cache == (60, 3600)


def test_an_upload_above_the_limit_is_refused(served, files):
    page, address = served
    page.max_file_size, before = 1000, page.max_file_size
    try:
        assert upload(address, files / "red.mp4")[0] == 413
    finally:
        page.max_file_size = before
    assert before == 50 << 20
