"""Tests of flags made from structs."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from quire.shared import config, flags
from quire.shared.flags import Flag


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A sample."""

    count: Annotated[int, Flag("how many", ge=1, le=9)] = 3
    size: Annotated[int | None, Flag("how large", is_size=True)] = None
    names: Annotated[tuple[str, ...], Flag("who")] = ()
    is_on: Annotated[bool, Flag("whether")] = True
    kind: Annotated[str, Flag("which", choices=("a", "b"))] = "a"
    secret: Annotated[tuple[str, ...], Flag("hidden", is_secret=True)] = ()


def test_flags_win_over_variables_which_win_over_defaults(monkeypatch):
    monkeypatch.setenv("QUIRE_COUNT", "5")
    monkeypatch.setenv("QUIRE_NAMES", "x,y")
    assert flags.parse(Sample, []) == Sample(count=5, names=("x", "y"))
    assert flags.parse(Sample, ["--count", "7", "--names", "z"]) == Sample(count=7, names=("z",))


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--count", "0"], "out of range: 1 <= value <= 9"),
        (["--count", "10"], "out of range"),
        (["--count", "many"], "'many' is not a int"),
        (["--kind", "c"], "'c' is not one of a, b"),
        (["--size", "3 potatoes"], "is not a size"),
        (["--coun", "3"], "unrecognized"),
    ],
)
def test_a_bad_value_is_one_line_that_names_it(argv, complaint, capsys):
    with pytest.raises(SystemExit) as error:
        flags.parse(Sample, argv)
    assert error.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_bad_variable_is_named(monkeypatch, capsys):
    monkeypatch.setenv("QUIRE_COUNT", "ten")
    with pytest.raises(SystemExit):
        flags.parse(Sample, [])
    assert "QUIRE_COUNT: 'ten' is not a int" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("4G", 4 * 10**9), ("1.5gb", 1_500_000_000), ("77", 77), ("2Ti", 2 << 40)]
)
def test_sizes_have_units(text, size):
    assert flags.parse_size(text) == size


def test_a_config_becomes_the_flags_that_give_it_again_but_for_secrets():
    sample = Sample(count=4, size=1024, names=("p", "q"), is_on=False, kind="b", secret=("s", "t"))
    argv = flags.to_argv(sample)
    assert "s" not in argv
    again = flags.parse(Sample, argv)
    assert again == Sample(count=4, size=1024, names=("p", "q"), is_on=False, kind="b")
    assert flags.secrets(sample) == {"QUIRE_SECRET": "s,t"}


@pytest.mark.parametrize(
    "config_type",
    [
        config.FrontendConfig,
        config.TokenizerConfig,
        config.EngineConfig,
        config.WorkerConfig,
        config.LauncherConfig,
    ],
)
def test_every_setting_has_help_and_a_default(config_type):
    for field in flags.fields(config_type).values():
        assert field.flag.help
    assert flags.parse(config_type, []) == config_type()
