"""Writing a finished pipeline as a zoo model."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gensift.pipelines.loading import CALL_DEFAULTS
from gensift.protocols import CallArguments, Pipeline


def publish_pipeline(pipeline: Pipeline, folder: Path, defaults: CallArguments) -> Path:
    """Write `pipeline` into `folder`, weights in float16, with the call arguments it needs."""
    pipeline.to(torch.float16).save_pretrained(folder)
    (folder / CALL_DEFAULTS).write_text(json.dumps(defaults, indent=2) + "\n")
    for config in folder.glob("*/config.json"):
        content = json.loads(config.read_text())
        # Where a part was loaded from means nothing elsewhere.
        content.pop("_name_or_path", None)
        if config.parent.name.startswith("text_encoder"):
            # transformers widens stored weights when asked to; diffusers does so by itself.
            content["dtype"] = "float32"
        config.write_text(json.dumps(content, indent=2) + "\n")
    return folder
