import subprocess
import sys

import pytest
import torch

from gensift.errors import ConfigError, MissingExtraError, UnknownNameError
from rewards.registry import REWARDS, load_reward

IMAGES = torch.full((2, 3, 64, 64), 0.5)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write an importable module `name` with the given source."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


def test_names_are_listed_without_torch():
    code = (
        "import sys; from rewards import REWARDS; names = REWARDS.names(); "
        "assert 'torch' not in sys.modules; sys.stdout.write(' '.join(names))"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert {"clip-score", "shapes-clip", "shapes-verifier"} <= set(listed.stdout.split())


def test_every_registered_loader_imports():
    assert all(callable(loader) for _, loader in REWARDS.items())


def test_public_names_resolve():
    import rewards

    assert all(getattr(rewards, name) is not None for name in rewards.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = rewards.nothing


def test_registered_name():
    assert load_reward("shapes-verifier").name == "shapes-verifier"


def test_module_function(module):
    name = module("my_rewards_a", "def dark(images, prompts): return -images.mean((1, 2, 3))\n")
    reward = load_reward(f"{name}:dark")
    assert reward(IMAGES, ["a", "b"]).tolist() == [-0.5, -0.5]


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("clip-scor", UnknownNameError, r"Nearest: 'clip-score'.*Known: .*module:function"),
        ("no_such_module_x:f", MissingExtraError, "'no_such_module_x' cannot be imported"),
        ("my_rewards_b:drak", ConfigError, r"has no 'drak'. Nearest: 'dark'"),
        ("my_rewards_b:Klass", ConfigError, "is a class"),
        ("my_rewards_b:number", ConfigError, "is a int"),
        ("my_rewards_broken:f", MissingExtraError, "cannot be imported"),
        (":f", ConfigError, "malformed"),
        ("my_rewards_b:", ConfigError, "malformed"),
    ],
)
def test_errors_are_one_line(module, spec, kind, message):
    module("my_rewards_b", "number = 3\nclass Klass: pass\ndef dark(i, p): pass\n")
    module("my_rewards_broken", "def f(:\n")
    with pytest.raises(kind, match=message) as caught:
        load_reward(spec)
    assert "\n" not in str(caught.value)


def test_options_that_no_loader_takes(module):
    with pytest.raises(ConfigError, match=r"'scal'.*It takes: .*scale"):
        load_reward("clip-score", scal=2.0)
    with pytest.raises(ConfigError, match="It takes: none"):
        load_reward("shapes-verifier", scale=2.0)
    name = module("my_rewards_c", "def dark(images, prompts): pass\n")
    with pytest.raises(ConfigError, match="takes no options"):
        load_reward(f"{name}:dark", scale=2.0)


def test_other_loaders_receive_device_and_options():
    name = "test-only-reward"
    try:
        REWARDS.register(name, lambda *, device, factor=1: lambda images, prompts: (device, factor))
        assert load_reward(name, device="meta", factor=3)(None, None) == ("meta", 3)
    finally:
        REWARDS._targets.pop(name)
        REWARDS._resolved.pop(name)
