"""Recipe of the cache profile of `metaworld-policy`: BAC with 10 of its 100 steps, and the last.

python -m apps.training.cache_profiles.metaworld_policy [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from caches.bac import calibration as bac
from caches.bac.cache import BAC
from caches.enable import PROFILES
from caches.evaluation import Denoising
from caches.profile import Profile, write_profile
from gensift.pipelines.loading import call_defaults, load_pipeline
from gensift.protocols import Pipeline
from gensift.zoo.catalog import model_folder
from gensift.zoo.metaworld.visited import visited

UPDATES, BUBBLING = 10, 5
"""As the paper has them in simulation."""
GOALS, HELD_OUT = (0, 1), (40, 41)
"""Validation goals whose episodes (of every task) it is fitted to, and measured on."""
PLANS = 48
BATCH = 16
SEED = 71


def publish(folder: Path) -> dict[str, float]:
    """Calibrate and write `bac.json` into `folder`; returns what was measured."""
    pipe: Pipeline = load_pipeline("metaworld-policy", dtype="float32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    arguments = call_defaults(pipe)
    denoising = Denoising(pipe, arguments, batch_prompts=BATCH, seed=SEED)
    fitted = visited(pipe, GOALS, **arguments)[:PLANS]
    statistics = bac.record_similarity(denoising, fitted)
    schedules = bac.block_schedules(
        statistics, UPDATES, num_bubbling=BUBBLING, always_update_last=True
    )
    config = bac.config_of(denoising, statistics, schedules)
    held_out = visited(pipe, HELD_OUT, **arguments)[:PLANS]
    error, speedup = denoising.compare(held_out, BAC(config))
    report = {
        "predicted_speedup": bac.predicted_speedup(statistics, schedules),
        "measured_speedup": speedup,
        "error": error,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_profile(folder / "bac.json", Profile.of(BAC.name, config, report))
    return report


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else model_folder("metaworld-policy") / PROFILES
    print(publish(target))
