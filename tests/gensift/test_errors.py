import pytest

from gensift import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.UnknownNameError, KeyError),
        (errors.DuplicateNameError, ValueError),
        (errors.PluginError, TypeError),
        (errors.UnsupportedPipelineError, TypeError),
        (errors.MissingExtraError, ImportError),
        (errors.RewardError, ValueError),
        (errors.RunFolderError, OSError),
        (errors.DeviceError, RuntimeError),
    ],
)
def test_each_error_is_ours_and_a_builtin_and_shows_its_message_unquoted(error, builtin):
    raised = error("`x` is 'y'; allowed: z")
    assert isinstance(raised, errors.GensiftError)
    assert isinstance(raised, builtin)
    assert str(raised) == "`x` is 'y'; allowed: z"


def test_config_error_joins_its_problems_in_one_line():
    error = errors.ConfigError.from_problems("Thing", ["a is 1", "b is 2"])
    assert str(error) == "Thing: 2 problems: a is 1; b is 2."
    assert error.problems == ("a is 1", "b is 2")


def test_nearest_hint_ignores_case_and_says_nothing_when_nothing_is_near():
    assert errors.nearest_hint("TTSNAP", ["ttsnap", "odd"]) == " Nearest: 'ttsnap'."
    assert errors.nearest_hint("qqqq", ["ttsnap", "odd"]) == ""
