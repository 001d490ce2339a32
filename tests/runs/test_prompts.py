"""Prompts from the command line and from files."""

from __future__ import annotations

import re
import warnings
from importlib.resources import files
from pathlib import Path

import pytest

from rsd.heads.attributes import ATTRIBUTES, caption
from rsd.heads.reading import read, unknown_words
from rsd.priors.latent import LatentPrior
from rsd.runs.prompts import folder_name, folder_names, gather, prompt_notes, read_prompts


@pytest.fixture
def write(tmp_path):
    def put(content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / "prompts.txt").write_bytes(data)
        return tmp_path / "prompts.txt"

    return put


def test_one_prompt_a_line(write):
    file = write('\ufeff# faces\r\n\n  a man \t with a   beard\r\n   # more\n""\na cat #1\nein Mädchen\n')
    assert read_prompts(file) == ["a man with a beard", "", "a cat #1", "ein Mädchen"]
    assert gather(["  a\ncastle "], file)[:2] == ["a castle", "a man with a beard"]


def test_a_prompt_given_twice_is_run_once(write):
    with pytest.warns(UserWarning, match='"a man" is given 3 times'):
        assert gather(["a  man", "a dog"], write("a man\na man\n")) == ["a man", "a dog"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gather(["a man", "A man"]) == ["a man", "A man"]


def test_the_empty_prompt_must_be_meant(write):
    for prompt in ("", "  \n"):
        with pytest.raises(ValueError, match="prompt is empty; .*--allow-empty"):
            gather(["a man", prompt])
        assert gather([prompt], allow_empty=True) == [""]
    assert gather([], write('""')) == [""]
    with pytest.raises(ValueError, match="no prompt.*--prompts FILE"):
        gather()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "contains no prompt"),
        (b"# only\n\n   \n", "contains no prompt"),
        (b"a man\na caf\xe9\n", "not UTF-8 in line 2"),
        ("a man".encode("utf-16"), "not UTF-8 in line 1"),
        (b"PK\0\1\n", "not text"),
    ],
)
def test_files_that_are_no_prompts(write, content, told):
    file = write(content)
    with pytest.raises(ValueError, match=told) as error:
        read_prompts(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt does not exist"):
        gather(["a man"], tmp_path / "nowhere.txt")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_prompts(tmp_path)


def test_a_manifest_is_taken_only_where_lines_may_have_settings(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a man"}')
    with pytest.raises(ValueError, match="prompts.jsonl is a manifest, which is not accepted here"):
        gather((), tmp_path / "prompts.jsonl")


def test_the_name_of_a_file_is_no_prompt(write, monkeypatch):
    file = write("a man\n")
    monkeypatch.chdir(file.parent)
    for name in (file.name, f"./{file.name}", str(file)):
        with pytest.raises(ValueError, match=f"is a file; use --prompts .*{file.name}"):
            gather([name])
    (file.parent / "castle").touch()
    assert gather(["castle", "a man.", "x" * 500 + "."]) == ["castle", "a man.", "x" * 500 + "."]


def test_many_unknown_words_are_counted():
    (text,) = prompt_notes("a man with " + " ".join(f"w{k}" for k in range(9)), "heads")
    assert '"w4" and 4 more; ' in text and "w5" not in text
    assert "more" not in prompt_notes("a man with w0 w1", "heads")[0]


def test_unknown_words_are_named_with_a_link_to_the_vocabulary():
    (text,) = prompt_notes("a Wizard with blue hair, 4k", "heads")
    assert '"wizard", "4k"' in text and '"hair"' not in text and "rsd heads --help" in text and len(text) < 120
    assert prompt_notes("a bald man", "heads") == [] and prompt_notes("a Wizard", "other") == []


def test_contradictions_are_named_and_captions_raise_no_note():
    assert prompt_notes("a bald man with long hair", "heads-pixels") == [
        'The prompt "a bald man with long hair" contradicts itself about hair; scores ignore that.'
    ]
    assert prompt_notes(caption({a: options[-1] for a, options in ATTRIBUTES.items()}, view="side view"), "heads") == []
    assert prompt_notes("", "heads") == []
    assert prompt_notes("a green bun", "heads") == [
        'The prior heads knows "green", but not in the way "a green bun" uses it; see `rsd heads --help`.'
    ]


def test_other_priors_accept_any_word_and_report_what_they_cut(tiny_pipeline):
    prior = LatentPrior(tiny_pipeline())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prompt in ("dragon", ""):
            assert prompt_notes(prompt, prior.name) == [] and prior.condition(prompt).prompt == prompt
    with pytest.warns(UserWarning, match='longer than 16 tokens; this was cut off: "o p q"'):
        found = prior.condition("a b c d e f g h i j k l m n o p q", guidance=7.5)
    with pytest.warns(UserWarning, match=r"was cut off: \"[a-z ]{57}\.\.\.\"$"):
        prior.condition(" ".join("abcdefghijklmno" * 5))
    prior.release_text_encoder()
    again = prior.condition("a b c d e f g h i j k l m n o p q", guidance=7.5)
    assert again.embeddings.equal(found.embeddings)


ODD = [
    "", ".", "..", "../../etc/passwd", "a" * 300, "a" * 301, "A woman", "a woman", "a-woman", "猫", "犬", "con", "nul",
    "com1", "config.yaml", "metrics.json", "a/b", "a\\b", "a:b", "~", "red", "RED", "-rf", "red.", "red..", '"',
    "\udce9",
]  # fmt: skip


def test_folder_names_are_safe_and_differ():
    names = folder_names(ODD)
    assert len({name.lower() for name in names.values()}) == len(ODD)
    for name in names.values():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) and len(name) <= 60 and not name.endswith(".")
        assert name.split(".")[0] not in {"con", "nul", "com1"} and name not in ("config.yaml", "metrics.json")
    assert names["red"] == "red" and names["A woman"].startswith("a-woman-")
    assert folder_name("a woman") == names["a woman"]  # whatever else is run


def test_two_prompts_never_share_a_folder(monkeypatch):
    from rsd.runs import prompts

    monkeypatch.setattr(prompts, "slug", lambda text: "same")
    with pytest.raises(ValueError, match='"a b" and "c d" have the same folder name same'):
        folder_names(["a b", "c d"])
    assert folder_names(["a b"]) == {"a b": "same"}


def test_the_held_out_prompts():
    prompts = read_prompts(Path(str(files("rsd.configs") / "text_to_image" / "heads_prompts.txt")))
    assert len(prompts) == len(set(prompts)) == 16
    told = [read(prompt) for prompt in prompts]
    for prompt, found in zip(prompts, told, strict=True):
        assert unknown_words(prompt) == [] and not found.contradicted, prompt
        assert 3 <= len(found.values) <= 6 and set(found.seen) == set(found.values), prompt
        assert found.view == "front view" and len(found.open) >= 2, prompt
        whole = {a: options[0] for a, options in ATTRIBUTES.items()} | found.values
        assert caption(whole, set(found.values), found.view) == prompt  # as the prior's captions are written
    assert {a for found in told for a in found.values} >= {"person", "hair", "hair_color", "glasses", "mouth", "skin"}
