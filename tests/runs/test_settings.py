"""Settings files: errors name the file, the field and the remedy."""

from pathlib import Path

import pytest

from rsd.cli import main
from rsd.runs.settings import layered, make_folder, read_yaml, section, typed_values
from rsd.tasks.inverse.options import Restore
from rsd.tasks.inverse.packaged import parse as parse_restore
from rsd.tasks.text_to_image.packaged import parse as parse_text

MISTAKES = [
    ("gama: 3", 'unknown field "gama". Did you mean "gamma"?'),
    ("gamma: ten", 'gamma is "ten"; give a number.'),
    ("seed: 3\ngamma: [1, 2]", "gamma is [1, 2]; give a number."),
    ("steps: 1.5", "steps is 1.5; give a whole number."),
    ("steps: true", "steps is true; give a whole number."),
    ("resume: 1", "resume is 1; give true or false."),
    ("window: 0.5", "window is 0.5; give 2 numbers."),
    ("metrics: [clip, zip]", 'metrics is ["clip", "zip"]; give some of '),
    ("dtype: float8", 'dtype is "float8"; give one of float32, float16, bfloat16, float64.'),
    ("features: {a: 1}", 'features is {"a": 1}; give text.'),
    ("chunk: few", 'chunk is "few"; give a whole number.'),
    ("neg-prompt: x", 'unknown field "neg-prompt". Did you mean "negative_prompt"?'),
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").touch()
    return tmp_path / "own.yaml"


@pytest.mark.parametrize("command", ["restore", "text-to-image"])
@pytest.mark.parametrize(("text", "told"), MISTAKES)
def test_a_mistaken_field_is_named_with_its_file_and_what_it_takes(file, command, text, told, capsys):
    file.write_text(text)
    assert main([command, "photo.png", "--config", "own.yaml"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"rsd: own.yaml: {told}") and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"gamma: 3\na: b: c\n", "own.yaml is not YAML in line 2 (mapping values are not allowed here); write one"),
        (b'gamma: "3\n', "own.yaml is not YAML in line 2 (found unexpected end of stream)"),
        (b"gamma: 2024-13-45\n", "own.yaml is not YAML (month must be in 1..12)"),
        (b"- 1\n- 2\n", "own.yaml contains no settings; write one `field: value` per line"),
        (b"", "own.yaml contains no settings"),
        (b"prompt: caf\xe9\n", "own.yaml is not UTF-8 text; save it as UTF-8."),
        (b"config: more.yaml\n", "own.yaml: config has no meaning in a file; write the fields of more.yaml here."),
        (b"gamma: 1\nseed: 3\ngamma: 2\n", 'own.yaml: the field "gamma" is given twice; leave one of them out.'),
        (b"images: 3\n", "own.yaml: images is [3]; give a list of paths."),
        (b"lambda: 1\nlambda_: 2\n", 'own.yaml: the field "lambda" is given twice; leave one of them out.'),
    ],
)
def test_a_file_that_is_no_settings_is_reported(file, text, told, capsys):
    file.write_bytes(text)
    assert main(["restore", "photo.png", "--config", "own.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rsd: {told}") and error.count("\n") == 1


def test_a_folder_is_no_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file; check the path"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("name", ["lambda", "lambda_"])
def test_fields_may_be_written_as_flags_or_as_names(file, name):
    file.write_text(
        f"{name}: 1e-3\nlr-x: 0.7\nlr_z: 0.6\nprompt: -_- a face\nkeep-known: false\nclean: yes\nmask: null\n"
    )
    options, _ = parse_restore(["photo.png", "--task", "inpaint_half_face", "--config", "own.yaml"])
    assert (options.lambda_, options.lr_x, options.lr_z, options.prompt) == (0.001, 0.7, 0.6, "-_- a face")
    assert (options.keep_known, options.clean, options.mask) == (False, True, None)


def test_a_list_at_a_file_s_end_does_not_take_the_prompt_for_its_own(file):
    file.write_text("prompt: of another run\nmetrics: [clip]\n")
    options, _ = parse_text(["--config", "own.yaml", "a man"])
    assert options.prompt == ("a man",) and options.metrics == ("clip",)


def test_a_file_names_the_inputs_unless_the_command_line_does(file):
    file.write_text("images: [photo.png]\ntask: sr4\n")
    assert parse_restore(["--config", "own.yaml"])[0].images == (Path("photo.png"),)
    Path("other.png").touch()
    assert parse_restore(["other.png", "--config", "own.yaml"])[0].images == (Path("other.png"),)
    file.write_text("prompt: a man\nseed: 3\n")
    assert parse_text(["--config", "own.yaml"])[0].prompt == ("a man",)
    assert parse_text(["a cat", "--config", "own.yaml"])[0].prompt == ("a cat",)
    Path("prompts.txt").touch()
    assert parse_text(["--prompts", "prompts.txt", "--config", "own.yaml"])[0].prompt == ()


def test_what_the_other_layers_decide_the_packaged_file_does_not(file):
    file.write_text("task: sr4\nsteps: 7\n")
    asked = []

    def packaged(options):
        asked.append((options.task, options.method, options.steps))
        return section("inverse", "phase_retrieval_heads.yaml", "nonaug")

    options, name = layered(
        Restore, ["photo.png", "--config", "own.yaml", "--method", "hybrid"], prog="rsd restore", positional="images",
        packaged=packaged,
    )  # fmt: skip
    assert asked == [("sr4", "hybrid", 7)] and name == "phase_retrieval_heads.yaml: nonaug"
    assert (options.task, options.method, options.steps, options.gamma) == ("sr4", "hybrid", 7, 10)
    assert options.window == (0.4, 1.0)


def test_values_become_the_types_of_their_fields():
    found = typed_values(Restore, {"gamma": 6, "window": [0, 0.5], "mask": "m.png", "chunk": None, "steps": 7})
    assert found == {"gamma": 6.0, "window": (0.0, 0.5), "mask": Path("m.png"), "chunk": None, "steps": 7}
    assert [type(found["gamma"]), type(found["window"][0]), type(found["steps"])] == [float, float, int]
    with pytest.raises(ValueError, match='steps is "many"; give a whole number'):
        typed_values(Restore, {"steps": "many"})
    with pytest.raises(ValueError, match='Unknown setting "gama". Did you mean "gamma"?'):
        typed_values(Restore, {"gama": 6})


def test_output_folders_are_made_or_refused(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file is a file; choose another --out"):
        make_folder(tmp_path / "file")
    with pytest.raises(PermissionError, match=r"is not writable \(Not a directory\); choose another --out"):
        make_folder(tmp_path / "file" / "below")
