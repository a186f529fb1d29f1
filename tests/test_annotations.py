"""Lists and folders of videos become tables, or one error that says what is wrong where."""

import json
import os
from pathlib import Path

import pytest
from transformers.utils import logging

from videoms_hf.data.annotations import read_videos
from videoms_hf.data.preparation import write_list
from videoms_hf.data.tables import make_table, read_class_names, video_name

from .test_frame_folders import write_pictures
from .video_files import write_ramp


@pytest.fixture
def folder(tmp_path):
    """A folder with videos (readers do not open them) whose names hold spaces and odd signs."""
    names = ["a.mp4", "b c.mp4", "sub/d  e f.avi", "sub/#wave;(hand)!&.avi", "Übung 1.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def rows(table):
    return list(zip(table["video"], table["label"], strict=True))


def test_paths_may_hold_spaces_and_odd_signs_and_start_from_the_lists_folder(folder):
    text = "a.mp4 1\nb c.mp4 0\n\nsub/d  e f.avi\t2\r\nsub/#wave;(hand)!&.avi -1\n  Übung 1.mp4   1  \n"
    table = read_videos(write(folder / "train.csv", text))
    assert rows(table) == [
        (str(folder / "a.mp4"), 1),
        (str(folder / "b c.mp4"), 0),
        (str(folder / "sub/d  e f.avi"), 2),
        (str(folder / "sub/#wave;(hand)!&.avi"), -1),
        (str(folder / "Übung 1.mp4"), 1),
    ]
    assert table.features["label"].names == ["class_0", "class_1", "class_2"]


def test_relative_paths_start_from_a_given_root_and_absolute_ones_stay(folder, tmp_path_factory):
    lists = tmp_path_factory.mktemp("lists")
    text = f"sub/../a.mp4 0\n{folder}/b c.mp4 1\nhttps://host/x.mp4 1\n"
    table = read_videos(write(lists / "list.txt", text), root=folder)
    assert table["video"][:] == [str(folder / "a.mp4"), str(folder / "b c.mp4"), "https://host/x.mp4"]


def test_labels_may_be_names_and_their_order_does_not_depend_on_the_lines(folder):
    names = ["wave", "clap", "kick"]
    table = read_videos(write(folder / "x.csv", "a.mp4 wave\nb c.mp4 kick\nsub/d  e f.avi clap\nÜbung 1.mp4 -1\n"))
    again = read_videos(write(folder / "y.csv", "sub/d  e f.avi clap\nb c.mp4 kick\na.mp4 wave\n"))
    assert table.features["label"].names == again.features["label"].names == sorted(names)
    assert table["label"][:] == [2, 1, 0, -1]
    assert again["label"][:] == [0, 1, 2]


def test_a_split_that_lacks_classes_shares_the_labels_of_training(folder):
    train = read_videos(write(folder / "train.csv", "a.mp4 wave\nb c.mp4 kick\nsub/d  e f.avi clap\n"))
    text = write(folder / "val.csv", "a.mp4 wave\n")
    val = read_videos(text, class_names=train.features["label"].names)
    assert val["label"][:] == [2] and val.features == train.features
    assert read_videos(text)["label"][:] == [0]


def test_class_names_beside_the_list_give_the_order_and_a_given_one_wins(folder):
    write(folder / "classes.txt", "pick up\nput down\nwave\n")
    numbers = write(folder / "numbers.csv", "a.mp4 1\nb c.mp4 0\n")
    assert read_videos(numbers).features["label"].names == ["pick up", "put down", "wave"]
    assert read_videos(write(folder / "names.csv", "a.mp4 wave\n"))["label"][:] == [2]
    assert read_videos(numbers, class_names=["x", "y"]).features["label"].names == ["x", "y"]


def test_a_path_alone_is_unlabelled_even_if_it_holds_spaces(folder):
    table = read_videos(write(folder / "pretrain.csv", "a.mp4\nb c.mp4\nsub/d  e f.avi\n"))
    assert table["label"][:] == [-1, -1, -1]
    assert table["video"][1] == str(folder / "b c.mp4")
    assert table.features["label"].names == []


def test_every_bad_line_is_reported_with_its_number_what_it_has_and_what_it_should_have(folder):
    path = write(
        folder / "train.csv", "a.mp4 0\nmissing one.mp4 0\n\na.mp4 x1\nb c.mp4 -2\nb c.mp4 1.5\na.mp4 1\na.mp4 1\n"
    )
    with pytest.raises(ValueError) as error:
        read_videos(path)
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{path} has 4 errors")
    assert lines[1] == f"  line 2: there is no file {folder}/missing one.mp4"
    assert lines[2].startswith(
        "  line 4: the label is 'x1'; it must be a number from 0 to 99999, or -1 for unlabelled"
    )
    assert lines[3].startswith("  line 5: the label is '-2'") and lines[4].startswith("  line 6: the label is '1.5'")
    assert len(lines) == 5


def test_a_number_among_names_is_one_error_and_not_many(folder):
    with pytest.raises(ValueError, match="has 1 error;.*\n  line 1: the label is '7'; it must be a name"):
        read_videos(write(folder / "train.csv", "a.mp4 7\nb c.mp4 wave\na.mp4 clap\n"))


@pytest.mark.parametrize("label", ["3", "jump", "-5"])
def test_a_label_outside_the_classes_is_refused(folder, label):
    with pytest.raises(ValueError, match=f"line 2: the label is '{label}'.*from 0 to 2 or one of 'r', 's', 't'"):
        read_videos(write(folder / "val.csv", f"a.mp4 2\na.mp4 {label}\na.mp4 s\n"), class_names=["r", "s", "t"])


def test_of_many_errors_ten_are_listed_and_all_are_counted(folder):
    text = "".join(f"gone{i}.mp4 0\n" for i in range(37))
    with pytest.raises(ValueError) as error:
        read_videos(write(folder / "train.csv", text))
    lines = str(error.value).splitlines()
    assert "37 errors" in lines[0] and len(lines) == 12
    assert "line 10" in lines[10] and lines[11] == "  and 27 more"


def test_unlabelled_lines_are_refused_where_labels_are_needed(folder):
    path = write(folder / "train.csv", "a.mp4 0\nb c.mp4 -1\nsub/d  e f.avi\n")
    assert read_videos(path)["label"][:] == [0, -1, -1]
    with pytest.raises(ValueError, match=r"has 2 errors.*\n  line 2: .*b c.mp4 has no label.*\n  line 3: "):
        read_videos(path, require_labels=True)


def test_empty_missing_and_binary_lists_are_refused_by_name(folder):
    with pytest.raises(ValueError, match="empty.csv lists no video"):
        read_videos(write(folder / "empty.csv", "\n\n"))
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_videos(folder / "nowhere.csv")
    (folder / "latin.csv").write_bytes("Übung.mp4 0\n".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv is not UTF-8"):
        read_videos(folder / "latin.csv")


def test_a_byte_order_mark_is_no_part_of_the_first_path(folder):
    (folder / "bom.csv").write_bytes("\ufeffa.mp4 0\n".encode())
    assert read_videos(folder / "bom.csv")["video"][:] == [str(folder / "a.mp4")]


def test_class_names_may_be_numbered_from_zero_or_one(tmp_path):
    assert read_class_names(write(tmp_path / "c.txt", "0 pick up\n1 wave\n")) == ["pick up", "wave"]
    assert read_class_names(write(tmp_path / "d.txt", "pick up\n1 wave\n")) == ["pick up", "1 wave"]
    assert read_class_names(write(tmp_path / "d.txt", "1 pick up\n2 wave\n")) == ["pick up", "wave"]
    with pytest.raises(ValueError, match="line 2 is empty"):
        read_class_names(write(tmp_path / "e.txt", "a\n\nb\n"))
    with pytest.raises(ValueError, match="classes 0 and 2 are both called 'a'"):
        read_class_names(write(tmp_path / "f.txt", "a\nb\na\n"))


# -- lists as spreadsheets and programs write them ------------------------------------------------------------------

PATHS = ["a.mp4", "b c.mp4", "sub/#wave;(hand)!&.avi", "Übung 1.mp4"]
NAMES = ["playing guitar", "wave", "wave", "playing guitar"]


@pytest.mark.parametrize("options", [{}, {"sep": "\t"}, {"sep": ";"}, {"sep": " "}, {"index": True}, {"quoting": 1}])
@pytest.mark.parametrize("labels", [NAMES, [1, 0, 0, 1], [1.0, None, 0.0, 1.0]])
@pytest.mark.parametrize("columns", [("path", "label"), ("Video Path", "class"), ("file_name", "labels")])
def test_what_pandas_writes_is_read(folder, options, labels, columns):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({columns[0]: PATHS, columns[1]: labels})
    if options.get("sep") == " ":
        frame.columns = ["path", "label"]  # a header separated by spaces holds no other
    frame.to_csv(folder / "list.csv", **{"index": False, **options})
    table = read_videos(folder / "list.csv")
    names = table.features["label"].names
    assert table["video"][:] == [str(folder / path) for path in PATHS] and table["line"][:] == [2, 3, 4, 5]
    if labels is NAMES:
        assert [names[label] for label in table["label"]] == NAMES
    else:
        assert names == ["class_0", "class_1"]
        assert table["label"][:] == [-1 if label is None else label for label in labels]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    "lines",
    [
        ["a.mp4,wave", "b c.mp4,playing guitar"],
        ["a.mp4\twave", "b c.mp4\tplaying guitar"],
        ["a.mp4; wave", "b c.mp4; playing guitar"],
        ["a.mp4 wave", '"b c.mp4" "playing guitar"'],
        ["path label", "a.mp4 wave", '"b c.mp4" "playing guitar"'],
        ["label,split,path", "wave,train,a.mp4", "playing guitar,train,b c.mp4"],
        ['{"video": "a.mp4", "label": "wave"}', '{"label": "playing guitar", "video": "b c.mp4", "fps": 25}'],
    ],
)
def test_lists_of_all_forms_endings_and_marks_are_read(folder, lines, mark, end):
    (folder / "list").write_bytes((mark + end.join(lines) + end).encode())
    table = read_videos(folder / "list", require_labels=True)
    assert table["video"][:] == [str(folder / "a.mp4"), str(folder / "b c.mp4")]
    assert table["label"][:] == [1, 0] and table.features["label"].names == ["playing guitar", "wave"]


def test_the_official_form_wins_wherever_it_finds_as_many_videos(folder):
    names = ["x,1.mp4", "y;2.mp4", '"z".mp4', "video", "x"]
    for name in names:
        (folder / name).touch()
    table = read_videos(write(folder / "l.csv", "".join(f"{name} {i}\n" for i, name in enumerate(["video", *names]))))
    assert [Path(path).name for path in table["video"]] == ["video", *names]
    assert read_videos(write(folder / "one.csv", "x,1.mp4 0\n"))["video"][:] == [str(folder / "x,1.mp4")]
    assert read_videos(write(folder / "no.csv", "x,1.mp4\ny;2.mp4\n"))["label"][:] == [-1, -1]
    # Without any file the form is told from the ends of the paths, and by an official line if they say nothing.
    lost = {"gone,1.mp4 0\n": "gone,1.mp4", "gone.mp4,0 1\n": "gone.mp4", "gone,1 0\n": "gone,1"}
    for text, name in lost.items():
        table = read_videos(write(folder / "lost.csv", text), allow_missing=True)
        assert table["video"][:] == [str(folder / name)]


def test_words_of_a_header_may_be_labels_and_addresses_may_hold_separators(folder):
    table = read_videos(write(folder / "l.csv", "a.mp4,file\nb c.mp4,video\n"))
    assert len(table) == 2 and table.features["label"].names == ["file", "video"]
    table = read_videos(write(folder / "l.csv", "https://h/x.mp4,0\nhttps://h/y.mp4,1\n"))
    assert rows(table) == [("https://h/x.mp4", 0), ("https://h/y.mp4", 1)]
    table = read_videos(write(folder / "l.csv", "https://h/x?id=1,2 0\nhttps://h/x?id=1,3 1\n"))
    assert rows(table) == [("https://h/x?id=1,2", 0), ("https://h/x?id=1,3", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.mp4,0\ngone.mp4,0\n", "a path and a label, separated by a comma:\n  line 3: there is no file"),
        ("path,label\na.mp4,0\nx,y.mp4,0\n", "line 3: it has 3 fields, not 2; quote those that hold a comma"),
        ("path,label\na.mp4,0\n,1\n", "line 3: it has no path"),
        ("path,start_seconds\na.mp4,0\n", "line 2: it has seconds, which only a parquet table can have"),
        ('{"clip": "a.mp4"}\n', "a JSON object like .*\n  line 1: it has no path; it has 'clip'"),
        ('{"path": "a.mp4"}\n{"path": 3}\n[\n', "2 errors.*\n  line 2: it has no path; .*\n  line 3: it has no path"),
        ('{"path": "a.mp4", "label": [0, 1]}\n', "line 1: the label is .0, 1.; each video must have one label"),
    ],
)
def test_bad_lines_of_other_forms_are_named_too(folder, text, message):
    with pytest.raises(ValueError, match=message):
        read_videos(write(folder / "list.csv", text))


def test_a_video_where_a_list_is_wanted_is_called_a_video(folder):
    with pytest.raises(ValueError, match="a.mp4 is a video; give a list"):
        read_videos(folder / "a.mp4")


def warnings_of(caplog, read):
    caplog.clear()
    logging.enable_propagation()
    try:
        read()
    finally:
        logging.disable_propagation()
    return caplog.text


def test_classes_without_videos_and_labels_from_1_are_logged(folder, caplog):
    from_1 = write(folder / "list.csv", "a.mp4 1\nb c.mp4 2\na.mp4 3\n")
    said = warnings_of(caplog, lambda: read_videos(from_1))
    assert "1 of 4 classes have no video: 'class_0'; the labels seem to start at 1: subtract 1" in said
    with pytest.raises(ValueError, match="line 3: the label is '3'.* seem to start at 1"):
        read_videos(from_1, class_names=["x", "y", "z"])
    said = warnings_of(caplog, lambda: read_videos(write(folder / "list.csv", "a.mp4 0\nb c.mp4 2\n")))
    assert "1 of 3 classes have no video: 'class_1'" in said and "start at 1" not in said
    assert not warnings_of(caplog, lambda: read_videos(folder / "list.csv", class_names=["x", "y", "z"]))
    with pytest.raises(ValueError, match="the label is '20240101'; it must be a number from 0 to 99999"):
        read_videos(write(folder / "list.csv", "a.mp4 0\nb c.mp4 20240101\n"))


@pytest.fixture
def class_folders(tmp_path):
    for name in ["wave/2.mp4", "wave/1.AVI", "clap/x y.webm", "clap/notes.md", "clap/.hidden.mp4"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_for_each_class_is_read_in_the_order_of_names(class_folders):
    table = read_videos(class_folders)
    assert rows(table) == [
        (str(class_folders / "clap/x y.webm"), 0),
        (str(class_folders / "wave/1.AVI"), 1),
        (str(class_folders / "wave/2.mp4"), 1),
    ]
    assert table.features["label"].names == ["clap", "wave"]
    assert read_videos(class_folders, class_names=["wave", "jump", "clap"])["label"][:] == [2, 0, 0]


def test_files_that_are_no_videos_are_named(class_folders, caplog):
    logging.enable_propagation()
    try:
        read_videos(class_folders)
    finally:
        logging.disable_propagation()
    assert "notes.md" in caplog.text and ".hidden" not in caplog.text


def test_videos_outside_class_folders_are_unlabelled(class_folders, tmp_path_factory):
    (class_folders / "loose.mp4").touch()
    assert read_videos(class_folders)["label"][:] == [-1, 0, 1, 1]
    with pytest.raises(ValueError, match="loose.mp4 and 0 others are in no class folder"):
        read_videos(class_folders, require_labels=True)
    flat = tmp_path_factory.mktemp("flat")
    with pytest.raises(ValueError, match="has no video; their"):
        read_videos(flat)
    (flat / "only.mp4").touch()
    assert read_videos(flat)["label"][:] == [-1]


def test_folders_that_are_no_classes_are_refused_by_name(class_folders):
    (class_folders / "empty").mkdir()
    with pytest.raises(ValueError, match="'empty' has no video directly in it"):
        read_videos(class_folders)
    with pytest.raises(ValueError, match="'clap' is not a class; the classes are 'wave'\n  'empty' is not"):
        read_videos(class_folders, class_names=["wave"])
    with pytest.raises(ValueError, match="root is .*leave root out"):
        read_videos(class_folders, root=class_folders)


def test_folders_called_by_numbers_are_classes_in_their_order_and_numbers_in_lists_mean_their_names(tmp_path):
    for name in ("0", "1", "2", "10"):
        write_pictures(tmp_path / f"train/{name}/a", [1, 2])
    table = read_videos(tmp_path / "train")
    names = table.features["label"].names
    assert names == ["0", "1", "2", "10"] and table["label"][:] == [0, 1, 2, 3]
    text = "train/2/a 2\ntrain/10/a 10\ntrain/0/a 0\n"
    assert read_videos(write(tmp_path / "val.csv", text), class_names=names)["label"][:] == [2, 3, 0]
    with pytest.raises(ValueError, match="the label is '3'; it must be one of '0', '1', '2', '10', or -1"):
        read_videos(write(tmp_path / "val.csv", "train/2/a 3\n"), class_names=names)
    # What is written of such classes is read again as the same, numbers and names.
    (tmp_path / "out").mkdir()
    other = make_table(table["video"][:], [2, 0, 1, -1], ["1", "2", "0"])
    again = read_videos(write_list(other, tmp_path / "out", "train"))
    assert again["label"][:] == [2, 0, 1, -1] and again.features == other.features | {"line": again.features["line"]}


@pytest.mark.parametrize("names", [["0 a", "1 b"], ["1 a", "2 b"], ["a", "1 b"], ["1.0", "2.0"], ["2", "1"]])
def test_class_names_and_labels_that_are_written_are_read_again(folder, names):
    table = make_table([str(folder / "a.mp4"), str(folder / "b c.mp4")], [1, 0], names)
    read = read_videos(write_list(table, folder, "list"))
    assert read.features["label"].names == names and read["label"][:] == [1, 0]
    if " " not in names[0]:
        text = f"a.mp4,{names[1]}\nb c.mp4,{names[0]}\n"
        assert read_videos(write(folder / "names.csv", text))["label"][:] == [1, 0]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "-1", b"caf\xe9"])
def test_class_folders_whose_names_no_list_can_hold_are_refused(tmp_path, name):
    write_ramp(tmp_path / "v.mp4", num_frames=2)
    os.mkdir(os.path.join(os.fsencode(tmp_path), os.fsencode(name)))
    os.rename(tmp_path / "v.mp4", os.path.join(os.fsencode(tmp_path), os.fsencode(name), b"v.mp4"))
    with pytest.raises(ValueError, match="class 0 is called '.*'; a name must be printable"):
        read_videos(tmp_path)


def test_files_whose_names_are_not_utf8_are_named(class_folders):
    (class_folders / "wave" / os.fsdecode(b"caf\xe9.mp4")).touch()
    with pytest.raises(ValueError, match=r"paths of 1 videos are not UTF-8; rename .*\n.*caf\\xe9.mp4"):
        read_videos(class_folders)
    (class_folders / "list.csv").write_bytes(b"wave/1.AVI 0\nwave/caf\xe9.mp4 0\n")
    with pytest.raises(ValueError, match="not UTF-8 text .*in line 2.*rename files whose names"):
        read_videos(class_folders / "list.csv")


def test_links_that_leave_the_folder_are_followed_and_logged_once(class_folders, tmp_path_factory, caplog):
    (class_folders / "wave/3.mp4").symlink_to(class_folders / "wave/2.mp4")
    assert "are links" not in warnings_of(caplog, lambda: read_videos(class_folders))
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.mp4"
    elsewhere.touch()
    for name in ("4.mp4", "5.mp4"):
        (class_folders / "wave" / name).symlink_to(elsewhere)
    said = warnings_of(caplog, lambda: read_videos(class_folders))
    assert said.count("2 videos are links that leave the folder") == 1 and str(elsewhere) in said
    assert len(read_videos(class_folders)) == 6


@pytest.mark.parametrize("metadata", [None, "csv", "jsonl"])
def test_splits_are_never_taken_for_classes(tmp_path, metadata):
    for split, labels in {"train": "ba", "test": "ab"}.items():
        for i, label in enumerate(labels):
            folder = tmp_path / "set" / split / ("" if metadata else label)
            folder.mkdir(parents=True, exist_ok=True)
            write_ramp(folder / f"{i}.mp4", num_frames=4 + i)
        lines = {
            "csv": ["file_name,label", *(f"{i}.mp4,{label}" for i, label in enumerate(labels))],
            "jsonl": [json.dumps({"file_name": f"{i}.mp4", "label": label}) for i, label in enumerate(labels)],
        }
        if metadata:
            write(folder / f"metadata.{metadata}", "\n".join(lines[metadata]) + "\n")
    with pytest.raises(ValueError, match="set has the splits .*'train'.* (such as|write) .*set.train"):
        read_videos(tmp_path / "set")
    read = [read_videos(tmp_path / "set/train")] + ([read_videos(f"{tmp_path}/set:train")] if metadata else [])
    for table in read:
        assert table.features["label"].names == ["a", "b"]
        assert {Path(video_name(row)).name: row["label"] for row in table} == {"0.mp4": 1, "1.mp4": 0}


def test_the_real_lists_are_read(shared_data):
    train = read_videos(shared_data / "motion20" / "train.csv", require_labels=True)
    val = read_videos(
        shared_data / "motion20" / "val.csv", class_names=train.features["label"].names, require_labels=True
    )
    assert (len(train), len(val)) == (209, 30)
    assert train.features["label"].names[::19] == ["weizmann/bend", "egogestar/up"] and val.features == train.features
    assert len(read_videos(shared_data / "pretrain.csv")) == 585


# -- folders of pictures ---------------------------------------------------------------------------------------------


def test_folders_of_pictures_are_videos_in_folders_and_in_lists(class_folders):
    write_pictures(class_folders / "wave/0 pictures", [1, 2])
    write_pictures(class_folders / "loose", [1, 2])
    table = read_videos(class_folders)
    assert rows(table)[0] == (str(class_folders / "loose"), -1)
    assert (str(class_folders / "wave/0 pictures"), 1) in rows(table)
    (class_folders / "empty").mkdir()
    text = "wave/0 pictures 1\nwave/0 pictures\nloose 0\nempty 1\n"
    with pytest.raises(ValueError, match="has 1 error.*\n  line 4: .*empty is a folder without images"):
        read_videos(write(class_folders / "x.csv", text))
    table = read_videos(write(class_folders / "x.csv", text[:-8]))
    assert table["label"][:] == [1, -1, 0] and table["line"][:] == [1, 2, 3]
