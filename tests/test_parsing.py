"""JSON and YAML from outside: what goes beyond a limit is one line, soon."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from codecctl.config.load import load_config
from codecctl.errors import CodecctlError, ConfigError
from codecctl.parsing import parse_json, parse_yaml, shorten

BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
)


@pytest.fixture(autouse=True)
def _without_coverage() -> Iterator[None]:
    """The limits of time hold for the reader: to trace its lines takes longer than to run them."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "more than 32 brackets within one another"),
        ('{"a": ' * 40 + "1" + "}" * 40, "more than 32 brackets within one another"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ('{"a": 1e999}', "the number '1e999' is too large"),
        ('{"a": NaN}', "NaN is no number in JSON"),
        ('{"a": "' + "x" * 9_000_000 + '"}', "longer than 8 MiB"),
        ("[[1]]", "expected a JSON object"),
        ('{"a": 1,\n"b" 2}', "at line 2, column 5"),
    ],
)
def test_json_beyond_a_limit_is_refused(text: str, said: str) -> None:
    started = time.process_time()
    with pytest.raises(CodecctlError) as error:
        parse_json(text, "x.json")
    assert time.process_time() - started < 1
    assert str(error.value).startswith("x.json: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_thirty_two_brackets_are_read() -> None:
    value = parse_json('{"a": ' * 32 + "1" + "}" * 32, "x.json")
    for _ in range(32):
        value = value["a"]
    assert value == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("? [a, b] : c", "line 1: not valid YAML: a key that is a list or a section"),
        ("a: " + "[" * 10_000, "more than 32 sections within one another"),
        (BOMB, "an alias (*name); write the value out"),
        ("x: &a {b: 1}\ny:\n  <<: *a", "line 3: not valid YAML: an alias"),
        ("a: " + "x" * 40_000, "longer than the 32768 characters"),
        ("a: \x00", "special characters are not allowed"),
        ("? |\n  a\n  b\n: 1\n? |\n  a\n  b\n: 2", r"key 'a\nb\n' stands twice"),
    ],
)
def test_yaml_beyond_a_limit_is_refused(text: str, said: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "x.yaml")
    assert time.process_time() - started < 1
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "override", [f"train.n_steps={'9' * 4000}", f"train.n_steps={2**70}", "a\nb.c=1", "train.seed=1\nloss: 3", "\x1b=2"]
)
def test_set_beyond_a_limit_is_one_line(override: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("smoke", overrides=[override])
    assert str(error.value).isprintable()


def test_shorten_shows_no_control_characters() -> None:
    assert shorten("a\x1b[2J\u202e\n") == r"'a\x1b[2J\u202e\n'"
    assert len(shorten("x" * 1000)) <= 80
