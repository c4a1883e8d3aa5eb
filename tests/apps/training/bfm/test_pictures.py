"""Folders of pictures: what is found, how it is cropped, what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.blockwise_training import CLASSES
from PIL import Image

from apps.training.bfm.pictures import PictureFolder, read_picture
from gensift.errors import ConfigError


def test_subfolders_are_classes(pictures: PictureFolder) -> None:
    assert pictures.classes == CLASSES
    assert pictures.labels == (0,) * 5 + (1,) * 5
    for file, label in zip(pictures.files, pictures.labels, strict=True):
        assert file.parent.name == CLASSES[label]


def test_the_digest_follows_names_and_not_the_place(
    pictures: PictureFolder, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(pictures.folder, tmp_path / "moved"))
    assert PictureFolder.of(moved).digest == pictures.digest
    (moved / "dark" / "0.png").rename(moved / "dark" / "9.png")
    assert PictureFolder.of(moved).digest != pictures.digest


@pytest.mark.parametrize("size", [(12, 8), (8, 12), (24, 16), (4, 6)])
def test_the_centre_is_kept(size: tuple[int, int], tmp_path: Path) -> None:
    """Left of the middle red, right of it blue, so also in the crop."""
    picture = Image.new("RGB", size, (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    picture.save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", 8)
    assert found.shape == (3, 8, 8) and 0 <= float(found.min()) <= float(found.max()) <= 1
    assert (found[0, :, :3] > 0.9).all() and (found[2, :, 5:] > 0.9).all()


def test_a_square_of_the_right_size_is_left_as_it_is(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "a.png")
    assert torch.equal(read_picture(tmp_path / "a.png", 8), pixels.permute(2, 0, 1) / 255)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder; give a folder with one subfolder"):
        PictureFolder.of(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="subfolder of pictures for each class"):
        PictureFolder.of(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ConfigError, match=r"cat.*subfolder of pictures"):
        PictureFolder.of(tmp_path)
    (tmp_path / "cat" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"a\.png' cannot be read .*; mend or remove it"):
        PictureFolder.of(tmp_path).read([0], 8)
    shutil.copytree(tmp_path / "cat", tmp_path / "Cat")
    with pytest.raises(ConfigError, match="differ by case"):
        PictureFolder.of(tmp_path)
