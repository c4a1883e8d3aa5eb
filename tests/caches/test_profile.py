"""Profiles: written and read back, and files that are none."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cached_runs import SHORT, STEPS, UPDATES, VARIANTS, cached, config_of, final_latents
from helpers.tiny_pipelines import build

from caches.bac.config import BACConfig
from caches.enable import enable_cache
from caches.ertacache.config import ERTACacheConfig, StepRectification
from caches.fingerprint import Fingerprint, fingerprint_of
from caches.profile import Profile, read_profile, write_profile
from caches.registry import CACHES
from gensift.config import to_dict
from gensift.errors import ConfigError

CONFIGS: dict[str, Any] = {"ertacache": ERTACacheConfig, "bac": BACConfig}


def full_config(variant: str, pipe: Any) -> Any:
    """A config none of whose fields has its default, and its fingerprint."""
    fingerprint = fingerprint_of(
        pipe, num_steps=STEPS, sigmas=(1.0, 0.25, 0.0), guidance_scale=3.5, latents=(64, 16)
    )
    config = config_of(variant, pipe, UPDATES)
    config = replace(config, fingerprint=fingerprint, other_steps="refuse")
    if variant == "bac":
        return config
    slope = tuple(0.01 * channel for channel in range(16))
    item = StepRectification(branch="cond", step=2, slope=slope, offset=slope[::-1])
    return replace(config, rectification=(item,), step_shares=(1.0, 0.5, 0.25, 1.0, 0.125))


def write(path: Path, variant: str, config: Any) -> Path:
    fields = to_dict(config)
    del fields["fingerprint"]
    profile = Profile(
        cache=variant.partition("-")[0],
        fingerprint=config.fingerprint,
        config=fields,
        report={"error": 0.01},
    )
    write_profile(path, profile)
    return path


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build("flux").pipe


def test_every_registered_cache_takes_part() -> None:
    assert set(CONFIGS) == set(CACHES.names())


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_written_is_read_back(variant: str, tmp_path: Path, pipe: Any) -> None:
    config = full_config(variant, pipe)
    path = write(tmp_path / "profile.json", variant, config)
    assert [file.name for file in tmp_path.iterdir()] == ["profile.json"]
    assert type(config).from_file(path) == config
    profile = read_profile(path)
    assert profile.fingerprint == config.fingerprint and profile.report == {"error": 0.01}
    write_profile(tmp_path / "again.json", profile)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_does_the_same_as_its_config(variant: str, tmp_path: Path) -> None:
    pipe, call_kwargs = build("flux")
    config = replace(full_config(variant, pipe), other_steps="warn")
    path = write(tmp_path / "profile.json", variant, config)
    found = []
    for cache in (config, path, str(path)):
        told = pytest.warns(UserWarning, match="was calibrated with other the size of the latents")
        with cached(pipe, cache), told:
            found.append(final_latents(pipe, call_kwargs([0, 1], **SHORT)))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def damage(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return damage


DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "cut off": (lambda text: text[: len(text) // 2], "cannot be read .*give a file that `gensift"),
    "empty": (lambda text: "", "cannot be read"),
    "not a mapping": (lambda text: "[1, 2]", "is no cache profile of the format gensift-cache-1"),
    "other JSON": (lambda text: '{"format": "other-2"}', "is no cache profile of the format"),
    "no fingerprint": (damaged(lambda c: c.pop("fingerprint")), "damaged: .*`fingerprint` is miss"),
    "no config": (damaged(lambda c: c.pop("config")), "damaged: .*`config` is missing"),
    "no name": (damaged(lambda c: c.pop("cache")), "damaged: .*`cache` is missing"),
    "fingerprint a number": (damaged(lambda c: c.update(fingerprint=3)), "fingerprint"),
    "fingerprint empty": (
        damaged(lambda c: c.update(fingerprint={})),
        "damaged: Profile: 4 problems",
    ),
    "fingerprint lacks": (damaged(lambda c: c["fingerprint"].pop("denoiser")), "denoiser"),
    "fingerprint has more": (damaged(lambda c: c["fingerprint"].update(x=1)), "'x'|`x`"),
    "config a list": (damaged(lambda c: c.update(config=[1])), "config"),
    "config nothing": (damaged(lambda c: c.update(config=None)), "config"),
    "name no text": (damaged(lambda c: c.update(cache=3)), "cache"),
    "config lacks": (damaged(lambda c: c["config"].pop("num_steps")), "num_steps"),
    "config misspelt": (
        damaged(lambda c: c["config"].update(num_step=c["config"].pop("num_steps"))),
        "num_step.*num_steps",
    ),
    "wrong type": (damaged(lambda c: c["config"].update(num_steps="many")), "num_steps"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("variant", ["ertacache-body", "bac"])
def test_damaged_files_are_refused(variant: str, case: str, tmp_path: Path, pipe: Any) -> None:
    damage, expected = DAMAGE[case]
    config = full_config(variant, pipe)
    path = write(tmp_path / "profile.json", variant, config)
    path.write_text(damage(path.read_text()))
    for read in (type(config).from_file, lambda path: enable_cache(pipe, path)):
        with pytest.raises(ConfigError, match=expected) as raised:
            read(path)
        assert "\n" not in str(raised.value)


def test_a_file_that_is_no_text_and_one_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(path)
    with pytest.raises(ConfigError, match=r"missing\.json' cannot be read"):
        read_profile(tmp_path / "missing.json")


def test_a_profile_of_another_cache(tmp_path: Path, pipe: Any) -> None:
    path = write(tmp_path / "profile.json", "bac", full_config("bac", pipe))
    with pytest.raises(ConfigError, match="is a profile of 'bac', not of 'ertacache'; give that"):
        ERTACacheConfig.from_file(path)


def test_a_profile_of_a_cache_that_is_not_known(tmp_path: Path, pipe: Any) -> None:
    path = write(tmp_path / "profile.json", "teacache", full_config("bac", pipe))
    with pytest.raises(Exception, match=r"teacache.*ertacache") as raised:
        enable_cache(pipe, path)
    assert "\n" not in str(raised.value)


FINGERPRINT = Fingerprint(
    denoiser="Net",
    denoiser_config="0",
    scheduler="Solver",
    num_steps=2,
    sigmas=(1.0, 0.5, 0.0),
    guidance_scale=3.5,
    latents=(4, 8, 8),
)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (((1.0, 0.52, 0.0), 3.5, (4, 8, 8)), "noise levels of the schedule; its error"),
        (((1.0, 0.5, 0.0), 4.0, (4, 8, 8)), r"guidance_scale \(4\.0, was 3\.5\)"),
        (((1.0, 0.5, 0.0), 3.5, (4, 8, 9)), r"latents \(\(4, 8, 9\), was \(4, 8, 8\)\)"),
        (((1.0, 0.9, 0.0), 1.0, None), "schedule, guidance_scale"),
        (((1.0, 0.505, 0.0), 3.5, (4, 8, 8)), None),
        # Another number of steps is told of elsewhere; what is not known is not compared.
        (((1.0, 0.8, 0.4, 0.0), None, None), None),
    ],
)
def test_what_differs_from_the_calibrated_run_is_told(
    run: tuple[Any, Any, Any], expected: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    FINGERPRINT.warn_of_run(*run)
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == (expected is not None)
    if expected is not None:
        with pytest.warns(UserWarning, match=expected):
            FINGERPRINT.warn_of_run(*run)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_is_compared_once_per_enabling(variant: str) -> None:
    pipe, call_kwargs = build("flux")
    final_latents(pipe, call_kwargs([0], **SHORT))
    fingerprint = fingerprint_of(
        pipe, num_steps=STEPS, sigmas=(), guidance_scale=7.0, latents=(64, 16)
    )
    config = replace(config_of(variant, pipe, UPDATES), fingerprint=fingerprint)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with cached(pipe, config):
                for _ in range(2):
                    final_latents(pipe, call_kwargs([0], **SHORT))
    told = [str(w.message) for w in caught if "was calibrated with other" in str(w.message)]
    assert len(told) == 2
    assert "guidance_scale (3.5, was 7.0)" in told[0]
    assert "the size of the latents ((16, 16), was (64, 16))" in told[0]
