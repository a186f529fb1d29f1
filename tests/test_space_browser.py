"""The Space in a real browser: upload, slider, tabs, a corrupt file, a camera, and two users at once.

pip install -e ".[test,browser]" && apt-get install chromium chromium-driver
bash scripts/test.sh -m slow tests/test_space_browser.py
"""

import json
import os
import shutil
import socket
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import randomize
from tests.processes import running_program
from tests.test_space import files, mean_color  # noqa: F401 (files is a fixture)
from videoms_hf import VideoMSConfig, VideoMSForPreTraining, VideoMSVideoProcessor


ROOT = Path(__file__).parents[1]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 120  # seconds, for a machine that does other work
SCREENSHOTS = os.environ.get("SPACE_SCREENSHOTS")  # folder to keep them in
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def address(files):  # noqa: F811
    """Of the app with a pre-trained model, which has every tab."""
    pytest.importorskip("gradio", reason='gradio is not installed: pip install -e ".[browser]"')
    pytest.importorskip("selenium", reason='selenium is not installed: pip install -e ".[browser]"')
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    sizes |= {"decoder_hidden_size": 24, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 48}
    config = VideoMSConfig(image_size=32, patch_size=8, num_frames=8, decoder_num_hidden_layers=1, **sizes)
    randomize(VideoMSForPreTraining(config)).save_pretrained(files / "pretrained")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    VideoMSVideoProcessor(num_frames=8, frame_stride=2, **sizes).save_pretrained(files / "pretrained")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    temporary = files / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-u", "scripts/space/app.py", "--model", files / "pretrained", "--port", port]
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "TMPDIR": str(temporary)}
    variables |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with running_program([*map(str, command)], "Running on local URL", cwd=ROOT, env=variables):
        assert list(temporary.glob("videoms-space-*/examples/*.mp4"))
        yield f"http://127.0.0.1:{port}"
    assert not list(temporary.glob("videoms-space-*"))  # ended by SIGTERM


class Page:
    """The app in a browser of its own."""

    def __init__(self, browser, address: str):
        self.browser = browser
        browser.get(f"{address}/?__theme=light")
        self.wait(lambda: self.picture("kept"))

    def wait(self, condition):
        """The value of `condition` when it is true; what is not there yet is false."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + PATIENCE
        while True:
            try:
                if value := condition():
                    return value
            except WebDriverException:
                pass
            if time.monotonic() > end:
                self.screenshot("timeout")
                pytest.fail(f"not within {PATIENCE} s: {self.text('body')[:2000]}")
            time.sleep(0.2)

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def content(self, tab: str) -> str:
        return self.find(f"#{tab}-result").get_attribute("innerHTML")

    def picture(self, tab: str) -> str:
        return self.find(f"#{tab}-result .vm-picture").get_attribute("src")

    def clear(self) -> None:
        self.find("#video button[aria-label='Clear']").click()
        self.wait(lambda: self.browser.find_elements("css selector", "#video input[type=file]"))

    def upload(self, path: Path) -> None:
        self.clear()
        self.find("#video input[type=file]").send_keys(str(path))

    def screenshot(self, name: str) -> None:
        if SCREENSHOTS:
            self.browser.save_screenshot(f"{SCREENSHOTS}/{name}.png")


@contextmanager
def opened(address: str, *options: str):
    from selenium import webdriver

    choices = webdriver.ChromeOptions()
    choices.binary_location = CHROMIUM
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1360,1500", *options):
        choices.add_argument(option)
    choices.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(choices, webdriver.ChromeService(DRIVER))
    try:
        browser.set_page_load_timeout(PATIENCE)
        yield Page(browser, address)
    finally:
        browser.quit()


def test_an_upload_a_slider_tabs_and_a_corrupt_file(address, files):  # noqa: F811
    with opened(address) as page:
        page.screenshot("first")
        page.clear()
        page.wait(lambda: page.find("#kept-result .vm-empty"))
        assert not page.find("#video .source-selection").is_displayed()  # there is no camera
        page.find("#video input[type=file]").send_keys(str(files / "red.mp4"))
        page.wait(lambda: "38 of 64" in page.text("#kept-result"))
        red, _, blue = mean_color(page.content("kept"))
        assert red > 150 > blue
        page.screenshot("upload")
        slide = (
            "arguments[0].value = 0.25; for (const name of ['input', 'pointerup', 'change'])"
            "arguments[0].dispatchEvent(new Event(name, {bubbles: true}))"
        )
        page.browser.execute_script(slide, page.find("#ratio input[type=range]"))
        page.wait(lambda: "16 of 64" in page.text("#kept-result"))
        page.screenshot("slider")
        _, compare, reconstruction = page.browser.find_elements("css selector", "button[role=tab]")
        compare.click()
        page.wait(lambda: "random" in page.text("#compare-result") and page.picture("compare"))
        page.screenshot("compare")
        reconstruction.click()
        page.wait(lambda: "predicted" in page.text("#reconstruction-result") and page.picture("reconstruction"))
        page.screenshot("reconstruction")
        page.upload(files / "corrupt.mp4")
        page.wait(lambda: "corrupt" in page.text("#reconstruction-result .vm-error"))
        page.screenshot("corrupt")
        assert not page.browser.find_elements("css selector", ".vm-picture")
        visited = set()
        for entry in page.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                visited.add(message["params"]["request"]["url"].split("?")[0])
        assert visited and all(url.startswith((address, "data:", "blob:")) for url in visited), visited
        errors = [entry["message"] for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors


def test_a_recording_of_the_camera_is_analysed(address):
    camera = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with opened(address, *camera) as page:
        page.clear()
        page.wait(lambda: page.find("#kept-result .vm-empty"))
        page.wait(lambda: page.find("#video button[aria-label='Capture from camera']")).click()
        grant = "//*[@id='video']//button[contains(., 'Access Webcam')]"
        page.wait(lambda: page.browser.find_element("xpath", grant)).click()
        page.wait(lambda: page.find("#video .capture-button")).click()
        time.sleep(3)
        page.screenshot("recording")
        page.wait(lambda: page.find("#video .capture-button")).click()
        page.wait(lambda: page.picture("kept"))
        page.screenshot("recorded")


def test_two_users_at_once_see_their_own_videos(address, files):  # noqa: F811
    with opened(address) as one, opened(address) as other:
        users = [(one, "red"), (other, "blue")]
        for page, name in users:
            page.upload(files / f"{name}.mp4")
        for page, name in users:
            page.wait(lambda page=page: page.picture("kept"))
            red, _, blue = mean_color(page.content("kept"))
            assert (red > blue) == (name == "red")
