"""Settings of the offline API: names and values are checked before any process starts."""

from __future__ import annotations

from typing import Any

import pytest

from quire.services.launcher.llm import LLM
from quire.services.launcher.offline_settings import check


def test_values_may_be_written_as_in_python_or_as_flags() -> None:
    given: dict[str, Any] = {"kv_cache_memory": "64MiB", "max_num_seqs": 8, "dtype": "float32", "prefix_caching": False}
    assert check(given) == {**given, "kv_cache_memory": 64 << 20}
    assert check({"served_model_name": "one", "threads": None}) == {"served_model_name": ("one",)}
    assert check({"served_model_name": ["one", "two"]}) == {"served_model_name": ("one", "two")}


def test_an_unknown_setting_is_refused_with_the_one_that_is_meant() -> None:
    with pytest.raises(TypeError, match="LLM has no setting 'max_seqs'; do you mean 'max_num_seqs'"):
        LLM(max_seqs=3)


@pytest.mark.parametrize("name", ["run_dir", "name", "listen", "key_file", "parent_pid", "workers", "port"])
def test_what_only_a_deployment_has_is_no_setting(name: str) -> None:
    with pytest.raises(TypeError, match=f"no setting {name!r}"):
        LLM(**{name: "x"})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_num_seqs": "many"}, "max_num_seqs: 'many' is not a int"),
        ({"max_num_seqs": 0}, "max_num_seqs: 0 is out of range: 1 <= value <= 4096"),
        ({"max_num_seqs": True}, "max_num_seqs is True; it must not be True or False"),
        ({"prefix_caching": 1}, "prefix_caching is 1; it must be True or False"),
        ({"dtype": "int3"}, "dtype: 'int3' is not one of auto, float32"),
        ({"kv_cache_memory": "lots"}, "kv_cache_memory: 'lots' is not a size"),
        ({"tokenizers": 0}, "tokenizers is 0; it must be at least 1"),
    ],
)
def test_a_bad_value_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LLM(**settings)
