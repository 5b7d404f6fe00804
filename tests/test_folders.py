"""Which files of a folder are pictures, what they are called, and how training and test are kept
apart."""

import shutil

import numpy as np
import pytest
from PIL import Image

from deqbilevel.data import DataError, folder, load
from deqbilevel.pictures import check_apart, names, pictures
from experiments.filters import tasks


def save(path, seed=0):
    path.parent.mkdir(exist_ok=True, parents=True)
    values = np.random.default_rng(seed).integers(0, 256, (60, 60), dtype=np.uint8)
    Image.fromarray(values).save(path)


def found(root):
    return [path.relative_to(root).as_posix() for path in pictures(root)]


@pytest.fixture
def root(tmp_path):
    """Four pictures in two levels of folders, one with an ending in capitals."""
    for seed, name in enumerate(["b.png", "a/0.PNG", "a/deep/1.tif", "c.jpg"]):
        save(tmp_path / "root" / name, seed)
    return tmp_path / "root"


ALL = ["a/0.PNG", "a/deep/1.tif", "b.png", "c.jpg"]


def test_pictures_are_found_in_subfolders(root):
    (root / "notes.txt").write_text("none")
    (root / "d.png").mkdir()
    assert found(root) == ALL


@pytest.mark.parametrize(
    "name",
    [".hidden.png", ".thumbnails/b.png", "a/.ipynb_checkpoints/0-checkpoint.png", ".x/y/z.png"],
)
def test_what_begins_with_a_dot_is_left_out(root, name):
    save(root / name, 9)
    assert found(root) == ALL


def test_the_folder_itself_may_be_hidden(tmp_path):
    save(tmp_path / ".cache" / "a.png")
    assert found(tmp_path / ".cache") == ["a.png"]


def test_what_a_run_owns_is_left_out(root):
    for name in ("runs/one/losses.png", "runs/one/figures/a.png", "runs/notes.png"):
        save(root / name, 9)
    (root / "runs" / "one" / "options.json").write_text("{}")
    assert found(root) == [*ALL, "runs/notes.png"]
    with pytest.raises(DataError, match=r"one: a run's folder \(options.json\)"):
        pictures(root / "runs" / "one")


def test_links_are_followed(root, tmp_path):
    save(tmp_path / "else" / "x.png", 7)
    save(tmp_path / "else" / "sub" / "y.png", 8)
    (root / "linked").symlink_to(tmp_path / "else")
    (root / "one.png").symlink_to(tmp_path / "else" / "x.png")
    assert found(root) == [*ALL, "linked/sub/y.png", "linked/x.png", "one.png"]


@pytest.mark.parametrize("target", [".", "root", "root/a", "root/a/deep"])
def test_no_folder_is_searched_twice(root, target):
    """Its own path counts, whatever link comes first in the alphabet."""
    (root / "a" / "aaa").symlink_to(root.parent / target)
    assert found(root) == ALL


def test_a_broken_link_is_named(root):
    (root / "notes.txt").symlink_to("nowhere")
    assert found(root) == ALL
    for name in ("gone.png", "folder", "a/round.png"):
        link = root / name
        link.symlink_to("round.png" if "round" in name else "nowhere")
        with pytest.raises(DataError, match=f"{link}: a link to (nowhere|round.png), which is not"):
            load(f"images:{root}", patch=4)
        link.unlink()


def test_names_differ(root):
    save(root / "c.png")
    save(root / "a" / "c.png")
    assert names(pictures(root), root) == ["a/0", "a/c", "a/deep/1", "b", "c.jpg", "c.png"]


def test_pictures_of_one_name_in_two_folders_count_for_themselves(tmp_path):
    for i in range(6):
        save(tmp_path / "test" / "ab"[i % 2] / f"{i // 2}.png", i)
    for i in range(3):
        save(tmp_path / "train" / f"{i}.png", 10 + i)
    request = {"count": 3, "patch": 0, "seed": 0}
    folders = tmp_path / "train", tmp_path / "test"
    with pytest.raises(ValueError, match=r"--images 4: .*train has only 3 pictures to learn from"):
        tasks.task("natural", *folders, **(request | {"count": 4}))
    task = tasks.task("natural", *folders, **request)
    assert list(task.pictures) == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]
    with pytest.raises(DataError, match=r"train/2\.png: the same picture for training"):
        tasks.task("natural", folders[0], folders[0], **request)


def copy(root, source, target):
    (root / target).parent.mkdir(exist_ok=True)
    shutil.copy(root / source, root / target)


@pytest.mark.parametrize("whole", [False, True])
def test_the_same_picture_on_both_sides_is_refused(root, whole):
    for split in ("train", "test"):
        save(root / split / f"{split}.png", 20 + (split == "test"))
    copy(root, "b.png", "train/one.png")
    copy(root, "b.png", "train/again.png")  # twice on one side is allowed
    cut = {"whole": True} if whole else {"patch": 4}
    sizes = {"train_size": 3, "test_size": 1}
    load(f"images:{root}", **cut, **sizes)
    copy(root, "b.png", "test/copy.jpg")
    with pytest.raises(DataError, match=r"(one|again).png and .*test/copy.jpg: the same picture"):
        load(f"images:{root}", **cut, **(sizes | {"test_size": 2}))


def test_a_link_to_a_training_picture_is_refused_as_test_picture(root):
    save(root / "train" / "a.png", 8)
    (root / "test").mkdir()
    (root / "test" / "b.png").symlink_to("../train/a.png")
    with pytest.raises(DataError, match=r"a\.png and .*b\.png: the same picture"):
        folder.split(root, 0)


def test_many_of_the_same_are_counted(root):
    sides = ([root / side / f"{i}.png" for i in range(5)] for side in ("train", "test"))
    train, test = map(list, sides)
    for i, path in enumerate(train + test):
        save(path, i % 5)
    with pytest.raises(DataError, match=r"; .* and 2 more pairs: the same picture"):
        check_apart(train, test)
