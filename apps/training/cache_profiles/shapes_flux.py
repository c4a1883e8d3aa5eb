"""Recipe of the cache profiles of `shapes-flux`: calibrated on training prompts, at its own steps.

python -m apps.training.cache_profiles.shapes_flux [FOLDER]
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from caches.bac.options import BACOptions
from caches.calibrate import Calibration, calibrate
from caches.enable import PROFILES
from caches.ertacache.options import ERTACacheOptions
from caches.profile import write_profile
from gensift.pipelines.loading import call_defaults, load_pipeline
from gensift.zoo.catalog import model_folder
from gensift.zoo.shapes.split import training_meanings

PROMPTS = 96
SEED = 51
# BAC saves less: half of this denoiser's time is spent outside of what it can reuse.
OPTIONS = {
    "ertacache": ERTACacheOptions(target_speedup=1.5, batch_prompts=8, seed=SEED),
    "bac": BACOptions(target_speedup=1.25, batch_prompts=8, seed=SEED),
}


def publish(folder: Path, name: str) -> Calibration:
    """Calibrate the cache `name` and write its profile into `folder`."""
    pipe = load_pipeline("shapes-flux", dtype="float32", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    steps = call_defaults(pipe)["num_inference_steps"]
    found = calibrate(pipe, training_prompts(), OPTIONS[name], num_inference_steps=steps)
    folder.mkdir(parents=True, exist_ok=True)
    write_profile(folder / f"{name}.json", found.profile)
    return found


def training_prompts() -> list[str]:
    """Random training prompts."""
    chosen = random.Random(SEED).sample(list(training_meanings()), PROMPTS)
    return [str(meaning) for meaning in chosen]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else model_folder("shapes-flux") / PROFILES
    for kind in OPTIONS:
        result = publish(target, kind)
        print(kind, result.predicted_speedup, result.measured_speedup, result.error)
