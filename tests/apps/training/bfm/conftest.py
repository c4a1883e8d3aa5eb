from pathlib import Path

import pytest
from helpers.blockwise_training import draw_pictures, encode_all

from apps.training.bfm.encoded import EncodedPictures
from apps.training.bfm.pictures import PictureFolder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    return PictureFolder.of(draw_pictures(tmp_path_factory.mktemp("data") / "pictures"))


@pytest.fixture(scope="session")
def encoded(pictures: PictureFolder) -> Path:
    folder = pictures.folder.parent / "encoded"
    encode_all(pictures, folder)
    return folder


@pytest.fixture(scope="session")
def data(pictures: PictureFolder, encoded: Path) -> EncodedPictures:
    from helpers.blockwise_training import data_of

    return data_of(encoded)
