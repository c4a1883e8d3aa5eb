"""A hub that is away, or refuses, is one line; what its local cache holds loads without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers.llada import transformer
from helpers.llada_checkpoints import VOCABULARY, write_checkpoint

from gensift import hub
from gensift.errors import ConfigError, DeviceError, MissingExtraError
from gensift.hub import foreign_errors, is_hub_id
from gensift.zoo.catalog import model_folder

COMMIT = "0" * 40
LOAD = """
import json, sys, time
import gensift
from gensift.pipelines.loading import load_preview_decoder
from rewards.registry import check_reward
loaders = {
    "model": lambda name: gensift.load_pipeline(name, device="cpu"),
    "decoder": lambda name: load_preview_decoder(gensift.load_pipeline("shapes-flux"), name),
    "reward": lambda name: gensift.load_reward(name, allow_pickle=True),
    "check": lambda name: check_reward(name, {}),
}
found = {}
for kind, name in json.loads(sys.argv[1]):
    started = time.monotonic()
    try:
        loaded = type(loaders[kind](name)).__name__
    except gensift.GensiftError as error:
        loaded = str(error)
    found[f"{kind} {name}"] = [loaded, time.monotonic() - started]
print(json.dumps(found))
"""
CASES = [
    ("model", "owner/flux"),
    ("model", "owner/llada"),
    ("model", "owner/half"),
    ("model", "owner/gated"),
    ("model", "owner/unknown"),
    ("decoder", "owner/unknown"),
    ("reward", "pickscore"),
    ("reward", "clip-score"),
    ("check", "imagereward"),
    ("check", "clip-score"),
    ("check", "shapes-clip"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub cache, laid out as huggingface_hub does, with two whole models and a half."""
    home = tmp_path_factory.mktemp("hub")

    def snapshot(name: str) -> Path:
        folder = home / f"models--owner--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        (folder / "snapshots").mkdir()
        return folder / "snapshots" / COMMIT

    flux = model_folder("shapes-flux")
    shutil.copytree(flux, snapshot("flux"))
    half = snapshot("half")
    half.mkdir()
    shutil.copy(flux / "model_index.json", half)
    write_checkpoint(snapshot("llada"), transformer(2, vocab_size=len(VOCABULARY)))
    return home


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for models that one may not have."""

    def do_HEAD(self) -> None:
        is_gated = "gated" in self.path
        self.send_response(200 if self.path == "/" else 403 if is_gated else 401)
        self.send_header("X-Error-Code", "GatedRepo" if is_gated else "RepoNotFound")
        self.send_header("X-Error-Message", "nothing")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *given: object) -> None:
        """Nothing is logged."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def load(cache: Path, cases: list[tuple[str, str]], **environment: str) -> dict[str, Any]:
    names = {"HF_HUB_CACHE": str(cache), "OMP_NUM_THREADS": "1", "NO_PROXY": "*", **environment}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(cases)],
        env={**kept, **names},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("way", ["refused", "offline"])
def test_without_the_hub_the_cache_is_enough_and_the_rest_is_a_line_at_once(
    way: str, cache: Path
) -> None:
    environment = (
        {"HF_HUB_OFFLINE": "1"} if way == "offline" else {"HF_ENDPOINT": "http://127.0.0.1:1"}
    )
    found = load(cache, CASES, **environment)
    assert found.pop("model owner/flux")[0] == "FluxPipeline"
    assert found.pop("model owner/llada")[0] == "LLaDAPipeline"
    assert found.pop("check shapes-clip")[0] == "NoneType"
    why = "HF_HUB_OFFLINE keeps" if way == "offline" else "http://127.0.0.1:1 cannot be reached"
    half, _ = found.pop("model owner/half")
    assert (
        half.startswith("Model 'owner/half' is only partly in the local hub cache") and why in half
    )
    for name, (line, seconds) in found.items():
        assert "\n" not in line
        assert "is not in the local hub cache, and" in line and why in line, name
        assert ". Give " in line or ", or give " in line, line
        # Far from the hub's own retries; the first of a kind imports what it needs.
        assert seconds < 15, name


def test_gated_and_unknown_models_say_what_to_do(address: str, cache: Path) -> None:
    cases = [case for case in CASES if case[1] in ("owner/gated", "owner/unknown", "pickscore")]
    found = load(cache, cases, HF_ENDPOINT=address)
    lines = {name: line for name, (line, _) in found.items()}
    assert all("\n" not in line for line in lines.values())
    assert f"is gated: accept its terms at {address}/owner/gated" in lines["model owner/gated"]
    for name in ("model owner/unknown", "decoder owner/unknown", "reward pickscore"):
        assert f"is unknown to {address}, or private: check the name" in lines[name]


def raised(error: BaseException) -> BaseException:
    with pytest.raises(BaseException) as caught, foreign_errors("Model 'x'", "Give another"):
        raise error
    return caught.value


def test_foreign_errors_become_ours() -> None:
    from huggingface_hub.errors import HFValidationError
    from safetensors import SafetensorError

    for error in (OSError("a\n  b."), SafetensorError("a b"), HFValidationError("a\tb:")):
        line = raised(error)
        assert isinstance(line, ConfigError)
        assert str(line) == "Model 'x' cannot be loaded: a b. Give another."
    assert isinstance(raised(ImportError("sentencepiece")), MissingExtraError)


@pytest.mark.parametrize(
    "error", [DeviceError("no gpu"), AssertionError("ours"), KeyboardInterrupt()]
)
def test_other_errors_pass(error: BaseException) -> None:
    assert raised(error) is error


@pytest.mark.parametrize("name", ["a/b", "black-forest-labs/FLUX.1-dev"])
def test_names_of_the_hub(name: str) -> None:
    assert is_hub_id(name)
    assert not any(
        map(
            is_hub_id,
            (f"./{name}", f"/{name}", f"{name}/c", f"{name}/", "a", "~/b", "a b/c", "a/b--c"),
        )
    )


def test_the_hub_is_asked_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(hub, "_answers", lambda minute: asked.append(minute) or False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.monotonic", lambda: 125.0)
    assert hub.is_hub_away()
    assert asked == [2]
