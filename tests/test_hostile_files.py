"""A file that names other files or addresses never makes the decoder open them, however it comes in."""

import http.server
import io
import runpy
import threading
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from videoms_hf import VideoMSVideoProcessor, sources_videoms
from videoms_hf.data.dataset import ClipDataset, ViewDataset
from videoms_hf.data.scanning import scan_tables
from videoms_hf.data.shards import Shards, add_video, tar_writer
from videoms_hf.data.tables import make_table
from videoms_hf.data.transcoding import Encoding, transcode_video
from videoms_hf.data.transforms import PretrainingTransform
from videoms_hf.decoding_videoms import VideoDecodeError, decode_frames, probe_video

from .evaluation_files import save_classifier
from .odd_files import encode, encoder, numbered_frames
from .video_files import write_ramp, write_video


HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:5.0,\n{0}\n#EXT-X-ENDLIST\n"
DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
 <Representation id="0" bandwidth="1"><BaseURL>{0}</BaseURL></Representation></AdaptationSet></Period></MPD>
"""
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/9\n"
PLAYLISTS = {
    "ffconcat": "ffconcat version 1.0\nfile '{0}'\n",
    "ffconcat of an address": "ffconcat version 1.0\nfile '{1}'\n",
    "ffconcat with an option": "ffconcat version 1.0\nfile '{0}'\noption safe 0\n",
    "ffconcat of a protocol": "ffconcat version 1.0\nfile 'subfile,,start,0,end,0,,:{0}'\n",
    "hls": HLS,
    "hls of an address": HLS.replace("{0}", "{1}"),
    "hls of a concatenation": HLS.replace("{0}", "concat:{0}|{0}"),
    "dash": DASH,
    "dash of an address": DASH.replace("{0}", "{1}"),
    "sdp": SDP,
    "webm dash": '<?xml version="1.0"?><webm>{0}</webm>',
    "filter graph": "movie={0}",
    "reference movie": "RTSPtextRTSP://{0}",
    "asx": '<asx version="3.0"><entry><ref href="{1}"/></entry></asx>',
    "metadata": ";FFMETADATA1\ntitle={0}\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{0}"/></svg>',
    "subtitles": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n",
}


@pytest.fixture
def secret(tmp_path):
    """A video that playlists name; it shows only what no caller has asked for."""
    return write_ramp(tmp_path / "secret.mp4")


@pytest.fixture
def server(tmp_path):
    """Serves a folder without ranges, as `python -m http.server`; `requests` are the paths that were asked for."""
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.requests, served.address = requests, f"http://127.0.0.1:{served.server_port}"
    yield served
    served.shutdown(), served.server_close(), thread.join(10)


def playlist(kind, secret, address):
    return PLAYLISTS[kind].format(secret, address).encode()


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("ending", ["mp4", "m3u8", "idx"])
def test_a_playlist_is_refused_whatever_it_comes_as(secret, server, tmp_path, kind, ending):
    data = playlist(kind, secret.name, f"{server.address}/secret.mp4")
    path = tmp_path / f"upload.{ending}"
    path.write_bytes(data)
    with open(path, "rb") as file:
        for source in (path, str(path), f"file://{path}", data, io.BytesIO(data), file):
            for read in (probe_video, lambda source: decode_frames(source, [0])):
                with pytest.raises(VideoDecodeError, match="FFmpeg cannot read it"):
                    read(source)
    assert not server.requests
    with pytest.raises(VideoDecodeError, match="FFmpeg cannot read it"):
        probe_video(f"{server.address}/upload.{ending}")
    assert set(server.requests) == {f"/upload.{ending}"}


@pytest.mark.parametrize("kind", ["ffconcat", "hls", "dash"])
def test_a_playlist_is_refused_by_all_that_reads_videos(secret, tmp_path, kind):
    path = tmp_path / "upload.mp4"
    path.write_bytes(playlist(kind, secret.name, ""))
    with pytest.raises(VideoDecodeError, match="FFmpeg cannot read it"):
        VideoMSVideoProcessor(num_frames=2)(str(path))  # as the pipeline and `videoms predict`
    for video in (str(path), {"path": "upload.mp4", "bytes": path.read_bytes()}):  # a file, and a row of shards
        table = make_table([video], [0], ["a"])
        clips = ClipDataset(table, lambda num_frames, rng: np.arange(2), lambda clip: clip, max_bad_share=0)
        with pytest.raises(ValueError, match="FFmpeg cannot read it"):
            clips[0]
        with pytest.raises(VideoDecodeError, match="FFmpeg cannot read it"):
            ViewDataset(table, num_frames=2, stride=1)[0]


@pytest.mark.parametrize("kind", ["ffconcat", "hls", "dash"])
def test_a_playlist_in_shards_and_for_the_script_is_refused(secret, tmp_path, kind, capsys):
    content = playlist(kind, secret.name, "")
    (tmp_path / "tar").mkdir(), (tmp_path / "parquet").mkdir()
    with tar_writer(tmp_path / "tar" / "00000.tar") as tar:
        add_video(tar, "00000000", "mp4", content, {"label": 0})
    rows = make_table([{"path": "upload.mp4", "bytes": content}], [0], ["a"])
    rows.to_parquet(tmp_path / "parquet" / "00000.parquet")
    for form in ("tar", "parquet"):
        shards = Shards(tmp_path / form, ["a"])
        clips = ClipDataset(shards, lambda num_frames, rng: np.arange(2), lambda clip: clip, max_bad_share=0)
        with pytest.raises(ValueError, match="FFmpeg cannot read it"):
            clips[0]
    (tmp_path / "upload.mp4").write_bytes(content)
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "predict.py"))["main"]
    assert script([str(tmp_path / "upload.mp4"), "--model", str(save_classifier(tmp_path / "model"))]) == 2
    said = capsys.readouterr()
    assert "FFmpeg cannot read it" in said.err and "%" not in said.out


@pytest.mark.parametrize(("name", "num_requests"), [("a.mkv", 1), ("a.mp4", 2)])  # whose index is at the end
def test_what_reads_an_address_downloads_it_once(server, tmp_path, name, num_requests):
    noise = np.random.default_rng(0).integers(0, 256, (12, 240, 320, 3), dtype=np.uint8)
    write_video(tmp_path / name, noise)
    address = f"{server.address}/{name}"
    table = make_table([address], [0], ["a"])
    readers = {
        "processor": lambda: VideoMSVideoProcessor(num_frames=2)(address),
        "clips": lambda: ClipDataset(table, lambda length, rng: np.arange(2), PretrainingTransform(32))[0],
        "views": lambda: ViewDataset(table, num_frames=2, stride=1)[0],
        "scan": lambda: scan_tables({"train": table}),
        "transcode": lambda: transcode_video(table[0], tmp_path / "out.mp4", Encoding()),
    }
    for reader, read in readers.items():
        server.requests.clear()
        read()
        assert server.requests == [f"/{name}"] * num_requests, reader


def test_an_address_without_ranges_is_downloaded_whole(server, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (12, 240, 320, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mp4", noise)  # its index is at the end
    assert torch.equal(decode_frames(f"{server.address}/a.mp4", [0, 9]), decode_frames(path, [0, 9]))
    assert probe_video(f"{server.address}/a.mp4") == probe_video(path)
    monkeypatch.setattr(sources_videoms, "MAX_DOWNLOAD_BYTES", 10)
    with pytest.raises(VideoDecodeError, match="a.mp4: its server cannot send parts and it is large: download it"):
        decode_frames(f"{server.address}/a.mp4", [0])
    with pytest.raises(VideoDecodeError, match="none.mp4: FFmpeg cannot read it"):
        decode_frames(f"{server.address}/none.mp4", [0])


@pytest.mark.parametrize(
    "name",
    [
        "concat:{0}|{0}",
        "subfile,,start,0,end,100,,:{0}",
        "data:video/mp4;base64,AAAA",
        "cache:{0}",
        "crypto:{0}",
        "async:{0}",
        "pipe:0",
        "fd:0",
        "-",
        "testsrc=size=64x64",
        "lavfi:testsrc",
        "movie={0}",
        "frame%03d.png",
        "*.png",
    ],
)
def test_a_name_is_that_of_a_file_and_no_protocol(secret, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path)
    with pytest.raises(FileNotFoundError):
        probe_video(name.format(secret))


@pytest.mark.parametrize("scheme", ["ftp", "rtsp", "rtmp", "udp", "tcp", "concat", "subfile", "hls+http", "gopher"])
def test_of_addresses_only_http_is_read(scheme):
    with pytest.raises(VideoDecodeError, match=r"only files and http\(s\) addresses are read; download it first"):
        probe_video(f"{scheme}://127.0.0.1/a.mp4")


def write_pictures(folder):
    for i in range(3):
        with av.open(str(folder / f"frame{i:03}.png"), "w", format="image2") as output:
            stream = output.add_stream("png", rate=1)
            stream.height, stream.width, stream.pix_fmt = 32, 32, "rgb24"
            picture = np.zeros((32, 32, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))


def test_a_file_named_as_a_pattern_opens_no_other(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "frame%03d.png").write_bytes((tmp_path / "frame000.png").read_bytes())
    with pytest.raises(VideoDecodeError, match="FFmpeg cannot read it"):
        probe_video(tmp_path / "frame%03d.png")
    assert probe_video(tmp_path / "frame001.png").num_frames == 1


# -- what people have ------------------------------------------------------------------------------------------------

CONTAINERS = {
    "mov": "libx264",
    "mp4": "mpeg4",
    "m4v": "libx264",
    "3gp": "mpeg4",
    "3g2": "mpeg4",
    "f4v": "libx264",
    "mkv": "libx265",
    "webm": "libvpx",
    "avi": "msmpeg4v2",
    "divx": "mpeg4",
    "ts": "mpeg2video",
    "m2ts": "libx264",
    "mts": "libx264",
    "mpg": "mpeg1video",
    "vob": "mpeg2video",
    "flv": "flv",
    "wmv": "wmv1",
    "asf": "msmpeg4",
    "ogv": "libvpx",
    "rm": "rv10",
    "wtv": "mpeg2video",
    "mxf": "mpeg2video",
    "nut": "ffv1",
    "gif": "gif",
    "apng": "apng",
    "ivf": "libvpx-vp9",
    "obu": "libsvtav1",
    "h264": "libx264",
    "hevc": "libx265",
    "m1v": "mpeg1video",
    "m2v": "mpeg2video",
    "mjpeg": "mjpeg",
    "y4m": "rawvideo",
    "swf": "flv",
    "dv": "dvvideo",
    "gxf": "mpeg2video",
}
FORMAT_OF = {"divx": "avi", "apng": "apng", "m2ts": "mpegts", "mts": "mpegts", "h264": "h264", "y4m": "yuv4mpegpipe"}
SIZES = {"3gp": (144, 176), "3g2": (144, 176), "dv": (576, 720), "gxf": (576, 720), "mxf": (576, 720)}


@pytest.mark.parametrize("ending", CONTAINERS)
def test_the_containers_that_people_have_are_read(tmp_path, ending):
    codec, size = CONTAINERS[ending], SIZES.get(ending, (48, 64))
    path, pix_fmt = (
        tmp_path / f"a.{ending}",
        {"gif": "rgb8", "apng": "rgb24", "mjpeg": "yuvj420p"}.get(ending, "yuv420p"),
    )
    options = {"g": "8"} | ({"x265-params": "pools=1:frame-threads=1:log-level=none"} if codec == "libx265" else {})
    with av.open(str(path), "w", format=FORMAT_OF.get(ending)) as output:
        stream = encoder(output, codec, pix_fmt, size, options)
        output.mux(encode(stream, numbered_frames(12, size)))
    data = path.read_bytes()
    for source in (path, data, io.BytesIO(data)):
        assert probe_video(source).num_frames == 12, ending
    assert decode_frames(path, [11]).shape == (1, 3, *size)
