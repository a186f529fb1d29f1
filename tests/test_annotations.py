"""Lists and folders of videos become tables, or one error that says what is wrong where."""

import pytest
from transformers.utils import logging

from videoms_hf.data.annotations import read_class_names, read_csv, read_folder, read_videos


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
    table = read_csv(write(folder / "train.csv", text))
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
    table = read_csv(write(lists / "list.txt", text), root=folder)
    assert table["video"][:] == [str(folder / "a.mp4"), str(folder / "b c.mp4"), "https://host/x.mp4"]


def test_labels_may_be_names_and_their_order_does_not_depend_on_the_lines(folder):
    names = ["wave", "clap", "kick"]
    table = read_csv(write(folder / "x.csv", "a.mp4 wave\nb c.mp4 kick\nsub/d  e f.avi clap\nÜbung 1.mp4 -1\n"))
    again = read_csv(write(folder / "y.csv", "sub/d  e f.avi clap\nb c.mp4 kick\na.mp4 wave\n"))
    assert table.features["label"].names == again.features["label"].names == sorted(names)
    assert table["label"][:] == [2, 1, 0, -1]
    assert again["label"][:] == [0, 1, 2]


def test_a_split_that_lacks_classes_shares_the_labels_of_training(folder):
    train = read_csv(write(folder / "train.csv", "a.mp4 wave\nb c.mp4 kick\nsub/d  e f.avi clap\n"))
    text = write(folder / "val.csv", "a.mp4 wave\n")
    val = read_csv(text, class_names=train.features["label"].names)
    assert val["label"][:] == [2] and val.features == train.features
    assert read_csv(text)["label"][:] == [0]


def test_class_names_beside_the_list_give_the_order_and_a_given_one_wins(folder):
    write(folder / "classes.txt", "pick up\nput down\nwave\n")
    numbers = write(folder / "numbers.csv", "a.mp4 1\nb c.mp4 0\n")
    assert read_csv(numbers).features["label"].names == ["pick up", "put down", "wave"]
    assert read_csv(write(folder / "names.csv", "a.mp4 wave\n"))["label"][:] == [2]
    assert read_csv(numbers, class_names=["x", "y"]).features["label"].names == ["x", "y"]


def test_a_path_alone_is_unlabelled_even_if_it_holds_spaces(folder):
    table = read_csv(write(folder / "pretrain.csv", "a.mp4\nb c.mp4\nsub/d  e f.avi\n"))
    assert table["label"][:] == [-1, -1, -1]
    assert table["video"][1] == str(folder / "b c.mp4")
    assert table.features["label"].names == []


def test_every_bad_line_is_reported_with_its_number_what_it_has_and_what_it_should_have(folder):
    path = write(
        folder / "train.csv", "a.mp4 0\nmissing one.mp4 0\n\na.mp4 x1\nb c.mp4 -2\nb c.mp4 1.5\na.mp4 1\na.mp4 1\n"
    )
    with pytest.raises(ValueError) as error:
        read_csv(path)
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{path} has 4 errors")
    assert lines[1] == f"  line 2: there is no file {folder}/missing one.mp4"
    assert lines[2].startswith("  line 4: the label is 'x1'; it must be a number from 0 on, or -1 for unlabelled")
    assert lines[3].startswith("  line 5: the label is '-2'") and lines[4].startswith("  line 6: the label is '1.5'")
    assert len(lines) == 5


def test_a_number_among_names_is_one_error_and_not_many(folder):
    with pytest.raises(ValueError, match="has 1 error;.*\n  line 1: the label is '7'; it must be a name"):
        read_csv(write(folder / "train.csv", "a.mp4 7\nb c.mp4 wave\na.mp4 clap\n"))


@pytest.mark.parametrize("label", ["3", "jump", "-5"])
def test_a_label_outside_the_classes_is_refused(folder, label):
    with pytest.raises(ValueError, match=f"line 2: the label is '{label}'.*from 0 to 2 or one of 'r', 's', 't'"):
        read_csv(write(folder / "val.csv", f"a.mp4 2\na.mp4 {label}\na.mp4 s\n"), class_names=["r", "s", "t"])


def test_of_many_errors_ten_are_listed_and_all_are_counted(folder):
    text = "".join(f"gone{i}.mp4 0\n" for i in range(37))
    with pytest.raises(ValueError) as error:
        read_csv(write(folder / "train.csv", text))
    lines = str(error.value).splitlines()
    assert "37 errors" in lines[0] and len(lines) == 12
    assert "line 10" in lines[10] and lines[11] == "  and 27 more"


def test_unlabelled_lines_are_refused_where_labels_are_needed(folder):
    path = write(folder / "train.csv", "a.mp4 0\nb c.mp4 -1\nsub/d  e f.avi\n")
    assert read_csv(path)["label"][:] == [0, -1, -1]
    with pytest.raises(ValueError, match=r"has 2 errors.*\n  line 2: .*b c.mp4 has no label.*\n  line 3: "):
        read_csv(path, require_labels=True)


def test_empty_missing_and_binary_lists_are_refused_by_name(folder):
    with pytest.raises(ValueError, match="empty.csv lists no video"):
        read_csv(write(folder / "empty.csv", "\n\n"))
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_videos(folder / "nowhere.csv")
    (folder / "latin.csv").write_bytes("Übung.mp4 0\n".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv is not UTF-8"):
        read_csv(folder / "latin.csv")


def test_a_byte_order_mark_is_no_part_of_the_first_path(folder):
    (folder / "bom.csv").write_bytes("\ufeffa.mp4 0\n".encode())
    assert read_csv(folder / "bom.csv")["video"][:] == [str(folder / "a.mp4")]


def test_class_names_may_be_numbered_from_zero(tmp_path):
    assert read_class_names(write(tmp_path / "c.txt", "0 pick up\n1 wave\n")) == ["pick up", "wave"]
    assert read_class_names(write(tmp_path / "d.txt", "pick up\n1 wave\n")) == ["pick up", "1 wave"]
    with pytest.raises(ValueError, match="line 2 is empty"):
        read_class_names(write(tmp_path / "e.txt", "a\n\nb\n"))
    with pytest.raises(ValueError, match="lines 1 and 3 both name the class 'a'"):
        read_class_names(write(tmp_path / "f.txt", "a\nb\na\n"))


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
    assert read_folder(class_folders, class_names=["wave", "jump", "clap"])["label"][:] == [2, 0, 0]


def test_files_that_are_no_videos_are_named(class_folders, caplog):
    logging.enable_propagation()
    try:
        read_folder(class_folders)
    finally:
        logging.disable_propagation()
    assert "notes.md" in caplog.text and ".hidden" not in caplog.text


def test_videos_outside_class_folders_are_unlabelled(class_folders, tmp_path_factory):
    (class_folders / "loose.mp4").touch()
    assert read_folder(class_folders)["label"][:] == [-1, 0, 1, 1]
    with pytest.raises(ValueError, match="loose.mp4 and 0 others are in no class folder"):
        read_folder(class_folders, require_labels=True)
    flat = tmp_path_factory.mktemp("flat")
    with pytest.raises(ValueError, match="holds no video"):
        read_folder(flat)
    (flat / "only.mp4").touch()
    assert read_folder(flat)["label"][:] == [-1]


def test_folders_that_are_no_classes_are_refused_by_name(class_folders):
    (class_folders / "empty").mkdir()
    with pytest.raises(ValueError, match="'empty' has no video directly in it"):
        read_folder(class_folders)
    with pytest.raises(ValueError, match="'clap' is not a class; the classes are 'wave'\n'empty' is not"):
        read_folder(class_folders, class_names=["wave"])
    with pytest.raises(ValueError, match="root is .*leave root out"):
        read_videos(class_folders, root=class_folders)


def test_the_real_lists_are_read(shared_data):
    train = read_videos(shared_data / "motion20" / "train.csv", require_labels=True)
    val = read_videos(
        shared_data / "motion20" / "val.csv", class_names=train.features["label"].names, require_labels=True
    )
    assert (len(train), len(val)) == (209, 30)
    assert train.features["label"].names[::19] == ["weizmann/bend", "egogestar/up"] and val.features == train.features
    assert len(read_videos(shared_data / "pretrain.csv")) == 585
