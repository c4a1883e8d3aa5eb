"""Encoded pictures: what is in the files, and how training reads them."""

from pathlib import Path

import pytest
import torch
from helpers.blockwise_training import GRID, SIDE, data_of, encode_all, tiny_vae

from apps.training.bfm import encoded as module
from apps.training.bfm.encoded import EncodedPictures, encoded_files
from apps.training.bfm.pictures import PictureFolder
from gensift.errors import ConfigError
from gensift.pipelines.bfm.latents import encode_pictures


class Places:
    """An encoder that says where on the picture it looked."""

    channels = 3

    def __call__(self, pictures: torch.Tensor, grid: int) -> torch.Tensor:
        cells = torch.nn.functional.adaptive_avg_pool2d(pictures, grid)
        return cells.flatten(2).transpose(1, 2)


@pytest.fixture(params=[1024, 3], ids=["one file", "many files"])
def rows_per_file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "_ROWS_PER_FILE", request.param)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 2)
    return int(request.param)


def test_rows_are_pictures_then_mirrored_ones(
    pictures: PictureFolder, tmp_path: Path, rows_per_file: int
) -> None:
    data = encode_all(pictures, tmp_path, features=Places(), flips=True)
    assert len(data) == 20
    assert len(list(tmp_path.iterdir())) == 2 * -(-10 // rows_per_file)
    rows = torch.tensor([19, 0, 13, 9, 10])
    latents, labels, features = data.draw(rows, torch.Generator().manual_seed(1))
    assert features is not None and latents.dtype == features.dtype == torch.float32
    pixels = pictures.read([row % 10 for row in rows.tolist()], SIDE)
    pixels[rows >= 10] = pixels[rows >= 10].flip(-1)
    with torch.no_grad():
        mean, std = encode_pictures(tiny_vae(), pixels)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(latents, mean + std * noise, rtol=0, atol=5e-3)  # kept in float16
    torch.testing.assert_close(features, Places()(pixels, GRID), rtol=0, atol=1e-3)
    assert labels.tolist() == [pictures.labels[row % 10] for row in rows.tolist()]


def test_latents_are_drawn_anew(encoded: Path) -> None:
    data, rows = data_of(encoded), torch.arange(3)
    one, other = (data.draw(rows, torch.Generator().manual_seed(seed))[0] for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one, data.draw(rows, torch.Generator().manual_seed(0))[0])


def test_what_is_there_is_not_encoded_again(pictures: PictureFolder, tmp_path: Path) -> None:
    encode_all(pictures, tmp_path)
    files = encoded_files(tmp_path, 10, flips=True)
    assert [file.path.name for file in module.missing_files(files)] == [
        "mirrored-00000.safetensors"
    ]


def test_damaged_files_are_named(pictures: PictureFolder, tmp_path: Path) -> None:
    encode_all(pictures, tmp_path)
    files = encoded_files(tmp_path, 10, flips=False)
    damaged = r"pictures-00000\.safetensors' is damaged; delete it"
    with pytest.raises(ConfigError, match=damaged):
        EncodedPictures(files, with_features=True)  # it has none
    with pytest.raises(ConfigError, match=damaged):
        EncodedPictures(encoded_files(tmp_path, 9, flips=False), with_features=False)
    files[0].path.write_bytes(files[0].path.read_bytes()[:-7])
    with pytest.raises(ConfigError, match=damaged):
        EncodedPictures(files, with_features=False)


def test_a_picture_that_cannot_be_read_leaves_no_file(
    pictures: PictureFolder, tmp_path: Path
) -> None:
    broken = tmp_path / "a.png"
    broken.write_bytes(b"no picture")
    folder = PictureFolder(tmp_path, ("a",), (pictures.files[0], broken), (0, 0))
    with pytest.raises(ConfigError, match="cannot be read"):
        encode_all(folder, tmp_path / "encoded")
    assert not list((tmp_path / "encoded").iterdir())
