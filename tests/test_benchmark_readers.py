"""Each benchmark's own files become one kind of table: names with odd signs, all splits, missing downloads."""

import json
from functools import partial

import pytest
from transformers.utils import logging

from videoms_hf.data.annotations import read_videos
from videoms_hf.data.official_annotations import benchmark_tables, read_subset


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows(table, folder):
    return [
        (video.removeprefix(f"{folder}/"), label, line)
        for video, label, line in zip(table["video"], table["label"], table["line"], strict=True)
    ]


@pytest.fixture
def log(caplog):
    """What the library logs."""
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


# -- UCF101 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ucf101(tmp_path):
    """UCF101's lists in small: three classes whose order is not that of their names."""
    write(tmp_path / "lists/classInd.txt", "1 Wave\r\n2 ApplyEyeMakeup\r\n3 Jump\r\n")
    names = [f"{c}/v_{c}_g0{g}_c01.avi" for c in ("ApplyEyeMakeup", "Jump", "Wave") for g in (1, 2, 3)]
    make(tmp_path / "videos", *names)
    number = {"Wave": 1, "ApplyEyeMakeup": 2, "Jump": 3}
    for split in (1, 2, 3):
        train = "".join(f"{n} {number[n.split('/')[0]]}\r\n" for n in names if f"g0{split}" not in n)
        write(tmp_path / f"lists/trainlist0{split}.txt", train)
        write(tmp_path / f"lists/testlist0{split}.txt", "".join(f"{n}\r\n" for n in names if f"g0{split}" in n))
    return tmp_path


@pytest.mark.parametrize("split", [1, 2, 3])
def test_ucf101_has_three_splits_with_the_classes_in_the_order_of_their_index(ucf101, split):
    train = read_subset("ucf101", ucf101 / "lists", ucf101 / "videos", "train", split)
    test = read_subset("ucf101", ucf101 / "lists", ucf101 / "videos", "test", split)
    assert train.features == test.features
    assert train.features["label"].names == ["Wave", "ApplyEyeMakeup", "Jump"]
    group = f"g0{split}"
    assert rows(test, ucf101 / "videos") == [
        (f"ApplyEyeMakeup/v_ApplyEyeMakeup_{group}_c01.avi", 1, 1),
        (f"Jump/v_Jump_{group}_c01.avi", 2, 2),
        (f"Wave/v_Wave_{group}_c01.avi", 0, 3),
    ]
    assert train["label"][:] == [1, 1, 2, 2, 0, 0] and not any(group in video for video in train["video"])


def test_ucf101_may_lie_in_one_folder(ucf101):
    flat = make(ucf101 / "flat", *[path.name for path in (ucf101 / "videos").rglob("*.avi")])
    table = read_subset("ucf101", ucf101 / "lists", flat, "test", 1)
    assert table["video"][0] == str(flat / "v_ApplyEyeMakeup_g01_c01.avi")


def test_what_is_wrong_in_ucf101s_lists_is_reported_by_line(ucf101):
    lists, videos = ucf101 / "lists", ucf101 / "videos"
    write(lists / "trainlist01.txt", "Wave/v_Wave_g02_c01.avi 2\nSwim/x.avi 1\nJump/v_Jump_g02_c01.avi 3\n")
    with pytest.raises(
        ValueError, match="has 2 errors:\n  line 1: .*number '2', but its class is 1\n  line 2: .*'Swim'"
    ):
        read_subset("ucf101", lists, videos)
    write(lists / "testlist02.txt", "Wave/v_Wave_g02_c01.avi\nWave/v_Wave_g09_c01.avi\n")
    with pytest.raises(ValueError, match="1 of 2 videos are missing, more than .* 0.0 .*\n  line 2: .*v_Wave_g09_c01"):
        read_subset("ucf101", lists, videos, "test", 2)
    assert len(read_subset("ucf101", lists, videos, "test", 2, max_missing_share=0.5)) == 1
    with pytest.raises(ValueError, match="split is 4; it must be one of 1, 2, 3"):
        read_subset("ucf101", lists, videos, split=4)
    with pytest.raises(ValueError, match="subset is 'val'; it must be one of 'train', 'test'"):
        read_subset("ucf101", lists, videos, "val")


def test_real_ucf101_clips_are_found_by_their_names(shared_clips, tmp_path):
    write(tmp_path / "classInd.txt", "1 Diving\n2 BenchPress\n")
    write(tmp_path / "testlist01.txt", "Diving/v_Diving_g01_c03.avi\nBenchPress/v_BenchPress_g01_c05.avi\n")
    table = read_subset("ucf101", tmp_path, shared_clips / "ucf101", "test")
    assert table["label"][:] == [0, 1] and table["video"][0] == str(shared_clips / "ucf101/v_Diving_g01_c03.avi")


# -- HMDB51 ----------------------------------------------------------------------------------------------------------

ODD_NAMES = ["#20_Rhythm_clap_u_0.avi", "a;b & (c)!_clap_1.avi", "two  spaces_clap 2 .avi", "Übung_clap_3.avi"]


@pytest.fixture
def hmdb51(tmp_path):
    make(tmp_path / "videos", *[f"clap/{name}" for name in ODD_NAMES], "brush_hair/x 1.avi", "brush_hair/y.avi")
    for split, codes in ((1, "1120"), (2, "2011"), (3, "0000")):
        lines = [f"{name} {code} \n" for name, code in zip(ODD_NAMES, codes, strict=True)]
        write(tmp_path / f"lists/clap_test_split{split}.txt", "".join(lines))
        write(tmp_path / f"lists/brush_hair_test_split{split}.txt", "x 1.avi 1 \ny.avi 2 \n")
    return tmp_path


def test_hmdb51s_odd_names_codes_and_splits_are_read(hmdb51):
    videos = hmdb51 / "videos"
    train = read_subset("hmdb51", hmdb51 / "lists", videos)
    assert train.features["label"].names == ["brush_hair", "clap"]
    assert rows(train, videos) == [
        ("brush_hair/x 1.avi", 0, 1),
        (f"clap/{ODD_NAMES[0]}", 1, 1),
        (f"clap/{ODD_NAMES[1]}", 1, 2),
    ]
    test = read_subset("hmdb51", hmdb51 / "lists", videos, "test")
    assert rows(test, videos) == [("brush_hair/y.avi", 0, 2), (f"clap/{ODD_NAMES[2]}", 1, 3)]
    assert rows(read_subset("hmdb51", hmdb51 / "lists", videos, "unused"), videos) == [(f"clap/{ODD_NAMES[3]}", 1, 4)]
    second = read_subset("hmdb51", hmdb51 / "lists", videos, "train", 2)
    assert [video for video, _, _ in rows(second, videos)][1:] == [f"clap/{ODD_NAMES[2]}", f"clap/{ODD_NAMES[3]}"]
    # A class without a video in a subset keeps its number.
    assert read_subset("hmdb51", hmdb51 / "lists", videos, "test", 3).features == train.features


def test_what_is_wrong_in_hmdb51s_files_is_named(hmdb51):
    write(hmdb51 / "lists/clap_test_split1.txt", "ok.avi 1 \nbroken.avi 7 \nalone.avi\n")
    with pytest.raises(
        ValueError, match="lists has 2 errors:\n  line 2: 'broken.avi 7' in clap_test_split1.txt must.*\n  line 3"
    ):
        read_subset("hmdb51", hmdb51 / "lists", hmdb51 / "videos")
    with pytest.raises(ValueError, match="has no file .*_test_split1.txt"):
        read_subset("hmdb51", hmdb51 / "videos", hmdb51 / "videos")


def test_a_table_of_odd_names_survives_the_way_through_a_list(hmdb51):
    table = read_subset("hmdb51", hmdb51 / "lists", hmdb51 / "videos")
    lines = "".join(f"{video} {label}\n" for video, label in zip(table["video"], table["label"], strict=True))
    again = read_videos(write(hmdb51 / "train.csv", lines))
    assert again["video"][:] == table["video"][:] and again["label"][:] == table["label"][:]


# -- Kinetics --------------------------------------------------------------------------------------------------------

KINETICS = """label,youtube_id,time_start,time_end,split
"hammer throw (sport), indoors",--abc_9-Xy0,7,17,train
abseiling,-xyz012_345,123,133,train
testifying,gone1234567,0,10,train
abseiling,R6llTwEh07w,2,12,train
"""


@pytest.fixture
def kinetics(tmp_path):
    write(tmp_path / "train.csv", KINETICS)
    make(
        tmp_path / "videos",
        "hammer throw/--abc_9-Xy0_000007_000017.mp4",
        "part 2/-xyz012_345_000123_000133.mkv",
        "R6llTwEh07w_000002_000012.mp4",
        "R6llTwEh07w_000002_000012.txt",
    )
    return tmp_path


def test_kinetics_files_are_found_below_the_folder_and_missing_downloads_are_named(kinetics, log):
    table = read_subset(
        "kinetics",
        kinetics,
        kinetics / "videos",
        max_missing_share=0.3,
        missing_list=kinetics / "missing.txt",
    )
    assert table.features["label"].names == ["abseiling", "hammer throw (sport), indoors", "testifying"]
    assert rows(table, kinetics / "videos") == [
        ("hammer throw/--abc_9-Xy0_000007_000017.mp4", 1, 2),
        ("part 2/-xyz012_345_000123_000133.mkv", 0, 3),
        ("R6llTwEh07w_000002_000012.mp4", 0, 5),
    ]
    assert "1 of 4 videos are missing; they are skipped:\n  line 4: there is no file of gone1234567" in log.text
    assert (kinetics / "missing.txt").read_text() == "gone1234567_000000_000010\n"


def test_more_missing_downloads_than_allowed_are_an_error(kinetics):
    with pytest.raises(
        ValueError, match="1 of 4 videos are missing, more than max_missing_share 0.2 allows.*\n.*gone"
    ):
        read_subset("kinetics", kinetics, kinetics / "videos")


def test_other_lists_of_kinetics_share_the_classes_of_training(kinetics):
    def read(subset, text):
        write(kinetics / f"{subset}.csv", text)
        return read_subset("kinetics", kinetics, kinetics / "videos", subset, class_names=names)

    names = ["testifying", "abseiling"]
    text = "label,youtube_id,time_start,time_end,split\nabseiling,R6llTwEh07w,2,12,val\n"
    val = read("validate", text)
    assert val["label"][:] == [1] and val.features["label"].names == names
    assert read_subset("kinetics", kinetics, kinetics / "videos", "val")["label"][:] == [0]
    test = read("test", "youtube_id,time_start,time_end,split\nR6llTwEh07w,2,12,test\n")
    assert test["label"][:] == [-1]
    with pytest.raises(ValueError, match="line 2: the label is 'swimming'; the classes are 'testifying', 'abseiling'"):
        read("val", text.replace("abseiling", "swimming"))
    with pytest.raises(ValueError, match="has the columns 'a', 'b'; it must have 'youtube_id', 'time_start'"):
        read("val", "a,b\n1,2\n")
    with pytest.raises(ValueError, match="line 2: the times are 'two' and '12'"):
        read("val", text.replace(",2,12", ",two,12"))


# -- Something-Something V2 ------------------------------------------------------------------------------------------


@pytest.fixture
def something(tmp_path):
    numbers = {"Approaching something with your camera": "1", "Pushing something from left to right": "0"}
    write(tmp_path / "labels.json", json.dumps(numbers))
    entries = [
        {
            "id": "78687",
            "label": "pushing cup from left to right",
            "template": "Pushing [something] from left to right",
            "placeholders": ["cup"],
        },
        {
            "id": "9",
            "label": "approaching a tree with your camera",
            "template": "Approaching [something] with your camera",
            "placeholders": ["a tree"],
        },
    ]
    write(tmp_path / "train.json", json.dumps(entries))
    write(tmp_path / "test.json", json.dumps([{"id": "10"}]))
    make(tmp_path / "videos", "78687.webm", "sub/9.webm", "10.webm")
    return tmp_path


def test_something_somethings_templates_give_the_numbers_of_its_labels(something):
    videos = something / "videos"
    table = read_subset("ssv2", something, videos)
    assert rows(table, videos) == [("78687.webm", 0, 1), ("sub/9.webm", 1, 2)]
    names = ["Pushing something from left to right", "Approaching something with your camera"]
    assert table.features["label"].names == names
    test = read_subset("ssv2", something, videos, "test")
    assert test["label"][:] == [-1] and test.features == table.features


def test_what_is_wrong_in_something_somethings_files_is_named(something):
    videos = something / "videos"
    write(something / "odd.json", json.dumps([{"id": "9", "template": "Eating [something]"}]))
    with pytest.raises(
        ValueError, match="odd.json has 1 error:\n  entry 1: the label is 'Eating something'; the classes"
    ):
        read_subset("ssv2", something, videos, "odd")
    with pytest.raises(ValueError, match="labels.json holds a dict; it must be a list"):
        read_subset("ssv2", something, videos, "labels")
    write(something / "labels.json", json.dumps({"a": "0", "b": "2"}))
    with pytest.raises(ValueError, match="number its classes from 0 to 1"):
        read_subset("ssv2", something, videos)


# -- Ego4D OSCC ------------------------------------------------------------------------------------------------------


def test_windows_of_missing_recordings_are_skipped_up_to_a_share_and_named(tmp_path, log):
    make(tmp_path, "videos/here.mp4")
    times = {"parent_start_sec": 0.0, "parent_end_sec": 8.0}
    clips = [{"unique_id": uid, "video_uid": uid, "state_change": True, **times} for uid in ("here", "gone")]
    for subset in ("train", "val"):
        write(tmp_path / f"fho_oscc-pnr_{subset}.json", json.dumps({"clips": clips}))
    read = partial(benchmark_tables, "oscc", tmp_path, tmp_path / "videos", missing_folder=tmp_path)
    with pytest.raises(ValueError, match="1 of 2 videos are missing, more than .* 0.0 .*\n  window 2: .*gone.mp4"):
        read()
    train = read(max_missing_share=0.5)["train"]
    assert train["unique_id"][:] == ["here"] and "window 2: there is no file of" in log.text
    assert (tmp_path / "missing_val.txt").read_text() == f"{tmp_path}/videos/gone.mp4\n"
