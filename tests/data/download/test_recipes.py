"""The shipped recipes are consistent, and errors in a recipe name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from codecctl.data.download.recipes import Corpus, choose, read_recipe, read_recipes
from codecctl.data.download.sources import HttpSource, HubSource, MdcSource
from codecctl.errors import ConfigError, UsageError

MINIMAL = """
name: mine
title: Mine
languages: [te]
licence: {name: CC0-1.0, url: "https://example.org"}
source: {kind: http, addresses: ["https://example.org/{name}"], files: [{name: a.zip}]}
layout: {audio: "**/*.wav"}
verified: {address: V, files: V, licence: V, layout: V}
"""


@pytest.fixture(scope="module")
def shipped() -> dict[str, Corpus]:
    return {corpus.name: corpus for corpus in read_recipes()}


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_every_promised_corpus_has_a_recipe(shipped: dict[str, Corpus]) -> None:
    promised = [
        "kathbath-te",
        "slr66-te",
        "mucs-te",
        "indictts-te",
        "shrutilipi-te",
        "indicvoices-te",
        "ljspeech",
        "vctk",
    ]
    promised += [f"slr103-{language}" for language in ("hi", "mr", "or")]
    promised += [f"common-voice-{language}" for language in ("te", "hi", "ta", "th", "id", "vi")]
    promised += [f"asterisk-core-sounds-{language}" for language in ("en", "es", "fr", "it", "ru")]
    promised += [f"librispeech-{part}" for part in ("dev-clean", "test-other", "train-clean-100", "train-other-500")]
    assert set(promised) <= set(shipped)
    assert sum(name.startswith("fleurs-") for name in shipped) == 102
    assert sum(name.startswith("librispeech-") for name in shipped) == 7


def test_names_and_unpacked_folders_are_unique(shipped: dict[str, Corpus]) -> None:
    assert len(shipped) == len(read_recipes())
    for corpus in shipped.values():
        folders = [file.into or file.name for file in corpus.source.known_files]
        assert len(set(folders)) == len(folders), corpus.name


def test_telephone_bandwidth_and_manual_corpora_are_selected_by_name_only(shipped: dict[str, Corpus]) -> None:
    everything = list(shipped.values())
    assert all(corpus.layout.sample_rate != 8000 for corpus in choose(everything, []))
    assert {corpus.name for corpus in everything if not corpus.enabled} == {
        "mucs-te", "slr103-hi", "slr103-mr", "slr103-or"
    }  # fmt: skip
    assert [corpus.name for corpus in choose(everything, ["slr103-hi"])] == ["slr103-hi"]


def test_every_gate_has_steps_with_its_address(shipped: dict[str, Corpus]) -> None:
    for corpus in shipped.values():
        if corpus.gate is not None:
            assert any(corpus.gate.url in step for step in corpus.gate.steps), corpus.name
            assert "same command" in " ".join(corpus.gate.steps), corpus.name
    assert all(corpus.gate for corpus in shipped.values() if isinstance(corpus.source, MdcSource))


def test_part_is_replaced_everywhere(shipped: dict[str, Corpus]) -> None:
    assert "{part}" not in "".join(corpus.model_dump_json() for corpus in shipped.values())
    fleurs = shipped["fleurs-te_in"]
    assert isinstance(fleurs.source, HubSource)
    assert isinstance(fleurs.fallback, HttpSource)
    assert fleurs.source.files == ("data/te_in/audio/*.tar.gz", "data/te_in/*.tsv")
    assert fleurs.fallback.files[0].name == "te_in.tar.gz"


def test_part_without_keys_is_the_recipe(tmp_path: Path) -> None:
    assert [corpus.name for corpus in read_recipe(recipe(tmp_path, f"{MINIMAL}parts:\n  te:\n"))] == ["mine-te"]


def test_choose_by_tier_language_family_and_path(shipped: dict[str, Corpus], tmp_path: Path) -> None:
    everything = list(shipped.values())
    first = choose(everything, [], tiers=[1], languages=["te"])
    assert {"slr66-te", "indictts-te", "fleurs-te_in"} <= {corpus.name for corpus in first}
    assert all(corpus.tier == 1 and "te" in corpus.languages for corpus in first)
    assert len(choose(everything, ["librispeech"])) == 7
    assert [corpus.name for corpus in choose(everything, ["vctk", "vctk"])] == ["vctk"]
    assert [corpus.name for corpus in choose(everything, [str(recipe(tmp_path, MINIMAL))])] == ["mine"]


def test_error_for_an_unknown_name_suggests_similar_ones(shipped: dict[str, Corpus]) -> None:
    with pytest.raises(UsageError, match="no corpus 'slr60-te'; did you mean slr66-te"):
        choose(list(shipped.values()), ["slr60-te"])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("title:", "titel:", "unknown key 'titel'; did you mean 'title'"),
        ('audio: "**/*.wav"', 'audoi: "**/*.wav"', "unknown key 'layout.audoi'; did you mean 'audio'"),
        ("name: a.zip", "name: ../a.zip", "must be a path below"),
        ("name: a.zip", "name: /a.zip", "must be a path below"),
        ("name: a.zip", 'name: a.zip, into: "."', "is where an archive is unpacked"),
        ("name: a.zip", "name: a.zip, into: x}, {name: b.zip, into: x", "'x' is where an archive is unpacked"),
        ("name: a.zip", "name: a.zip, into: x}, {name: b.zip, into: x/y", "'x/y' is where .* or below it"),
        ("name: a.zip", "name: x/a.zip, into: x", "'x/a.zip' is where"),
        ("name: a.zip", "name: a.zip, sha256: abc", "source.files.0.sha256"),
        ("name: a.zip", "name: a.zip, bytes: 5", "verified must state how 'bytes' is known"),
        ("name: mine", "name: ../mine", "cannot be a folder's name"),
        ("languages: [te]", "languages: [te, hi]", "the language of each recording"),
        ("kind: http", "kind: ftp", "source"),
        ("name: mine", "parts: {te: 5}", r"parts\.te: expected keys and values, or nothing"),
        ("layout: V}", "layout: X}", "verified.layout"),
        ("layout: {", "layout: {raw_pcm: true, ", "need their sample_rate"),
    ],
)
def test_error_in_a_recipe_names_file_and_key(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        read_recipe(recipe(tmp_path, MINIMAL.replace(old, new)))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_manual_source_needs_a_gate(tmp_path: Path) -> None:
    text = MINIMAL.replace(MINIMAL.splitlines()[5], "source: {kind: manual}")
    with pytest.raises(ConfigError, match="needs a gate with steps"):
        read_recipe(recipe(tmp_path, text))
