"""Few tiny pictures, and what trains tiny blockwise models on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from helpers.tiny_models import kl_vae
from PIL import Image
from torch import Tensor

from apps.training.bfm.batches import make_batch
from apps.training.bfm.encoded import EncodedPictures, Encoding, encoded_files
from apps.training.bfm.losses import VelocityLoss
from apps.training.bfm.options import BFMTraining
from apps.training.bfm.order import RowOrder
from apps.training.bfm.pictures import PictureFolder
from apps.training.bfm.stages import build_stages
from apps.training.bfm.start import LatentShape, Start, start_model
from apps.training.bfm.trainer import Trainer
from gensift.randomness import derived_seed

CLASSES = ("dark", "light")
SIDE = 16
GRID = 4
SHAPE = LatentShape(sample_size=8, in_channels=4, num_classes=2)
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_heads": 2,
    "trunk_depth": 2,
    "segment_depth": 1,
    "frn_depth": 1,
    "adaln_rank": 8,
    "num_segments": 3,
    "image_size": SIDE,
    "features": "none",
    "batch_size": 8,
    "frn_batch_size": 4,
    "steps": 4,
    "frn_steps": 3,
    "learning_rate": 1e-2,
    "ema_decay": 0.5,
    "mixed_precision": "no",
    "save_every": 2,
}
"""8 rows over 3 segments are 3, 3 and 2."""


class Interrupted(Exception):
    pass


class InterruptedAfter:
    """Counts steps and breaks off when there are so many."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, count: int) -> None:
        self.left -= count
        if self.left <= 0:
            raise Interrupted


def tiny(**changes: Any) -> BFMTraining:
    return BFMTraining(**(TINY | changes))


def draw_pictures(folder: Path, per_class: int = 5) -> Path:
    """Noisy pictures, dark ones and light ones, each of a size of its own."""
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            size = (SIDE + 4 * number, SIDE + 3, 3)
            pixels = torch.randint(0, 100, size, generator=generator) + 120 * label
            Image.fromarray(pixels.byte().numpy()).save(folder / name / f"{number}.png")
    return folder


def tiny_vae(**options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kl_vae(4, **options)


def encode_all(
    pictures: PictureFolder, folder: Path, *, features: Any = None, flips: bool = False
) -> EncodedPictures:
    folder.mkdir(parents=True, exist_ok=True)
    files = encoded_files(folder, len(pictures.files), flips=flips)
    encoding = Encoding(tiny_vae(), features, SIDE, GRID)
    for file in files:
        encoding.encode(pictures, file, lambda count: None)
    return EncodedPictures(files, with_features=features is not None)


def data_of(folder: Path) -> EncodedPictures:
    """What `encode_all` has written for `draw_pictures`, without features."""
    return EncodedPictures(encoded_files(folder, 2 * 5, flips=False), with_features=False)


def trainer_of(
    start: Start, data: EncodedPictures, folder: Path, config: BFMTraining, **options: Any
) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    stages = build_stages(start, config, options.get("feature_channels"))
    return Trainer(start.transformer, stages, data, folder, "tiny", config, accelerator)


def weights_after(data: EncodedPictures, folder: Path, config: BFMTraining) -> dict[str, Tensor]:
    """Published weights of a whole training; goes on in `folder`."""
    start = start_model(config, SHAPE)
    trainer_of(start, data, folder, config).run()
    weights: dict[str, Tensor] = start.transformer.state_dict()
    return weights


def by_hand(data: EncodedPictures, config: BFMTraining, processes: int = 1) -> dict[str, Tensor]:
    """Averaged weights of stage 1, all processes' shares one after another."""
    model = start_model(config, SHAPE).transformer
    trained = {n: p for n, p in model.named_parameters() if not n.startswith("frn.")}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.learning_rate, weight_decay=0)
    average = {name: value.detach().clone() for name, value in trained.items()}
    order = RowOrder(len(data), config.batch_size, config.seed, "flow")
    for step in range(config.steps):
        for rank in range(processes):
            rows = order.at(step)[rank::processes]
            seed = derived_seed([config.seed, step, rank], "flow")
            stream = torch.Generator().manual_seed(seed)
            micro = config.micro_batch or len(rows)
            for start in range(0, len(rows), micro):
                batch = make_batch(
                    *data.draw(rows[start : start + micro], stream),
                    model.boundaries,
                    null_label=model.null_label,
                    label_dropout=config.label_dropout,
                    generator=stream,
                )
                given = (batch.latents, batch.sigma, batch.labels, batch.velocity)
                loss, _ = VelocityLoss(model)(*given)
                (loss * micro / config.batch_size).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), config.clip)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(config.ema_decay, (2 + step) / (11 + step))
        for name, value in trained.items():
            average[name] = decay * average[name] + (1 - decay) * value.detach()
    return average
