"""A random-weight Infinity of the size of the zoo's, in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import T5EncoderModel

from apps.training.zoo import shapes_tokenizer
from apps.training.zoo.shapes_infinity import build_transformer
from apps.training.zoo.shapes_tokenizer import SCHEDULE
from apps.training.zoo.vocabulary import build_t5_tokenizer
from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.pipelines.loading import CALL_DEFAULTS
from gensift.zoo.catalog import model_folder


def save_random_infinity(folder: Path) -> Path:
    """Write the pipeline, with call arguments that leave its tokens to chance."""
    pipe = InfinityPipeline(
        build_transformer().eval(),
        shapes_tokenizer.build().eval(),
        T5EncoderModel.from_pretrained(model_folder("shapes-flux") / "text_encoder_2"),
        build_t5_tokenizer(),
        scales=SCHEDULE.scales,
    )
    pipe.save_pretrained(folder)
    (folder / CALL_DEFAULTS).write_text(json.dumps({"temperature": 1.0, "top_p": 0.0}))
    return folder
