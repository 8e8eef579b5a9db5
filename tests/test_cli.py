"""The command line: what it hands on, and how it says what went wrong."""

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from dalle2_edu import cli, zoo
from dalle2_edu.baselines.dalle1 import Dalle1Config, Dalle1Transformer
from dalle2_edu.baselines.dvae import Dvae, DvaeConfig
from dalle2_edu.cli.options import choose
from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.recipes import runs
from dalle2_edu.unclip.latents import Latent


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """What `dalle2-edu <arguments>` gives: exit code, stdout, stderr."""
    monkeypatch.setattr(
        warnings, "formatwarning", warnings.formatwarning
    )  # `main` replaces it: put it back
    monkeypatch.setattr(sys, "argv", ["dalle2-edu", *arguments])
    code = 0
    try:
        cli.main()
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- help -----------------------------------------------------------------------------

COMMANDS = [
    ["draw"],
    ["vary"],
    ["blend"],
    ["edit"],
    ["inpaint"],
    ["train"],
    ["recipes"],
    ["evaluate"],
    ["trial"],
    ["seams"],
    ["zoo", "list"],
    ["zoo", "verify"],
    ["zoo", "train"],
    ["zoo", "publish"],
    ["data", "emoji"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_teaches_by_an_example(command):
    answer = CliRunner().invoke(cli.app, [*command, "--help"])
    assert answer.exit_code == 0
    assert "Example:" in answer.output
    assert f"dalle2-edu {' '.join(command)}" in answer.output


def test_help_does_not_wait_for_pytorch():
    code = "import sys, dalle2_edu.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["draw", "  "], "empty"),
        (["draw", "caf\udce9"], "UTF-8"),
        (["draw", "rocket " * 20_000], "140,000 characters"),
        (["draw", "rocket", "--guidance-scale", "nan"], "nan is no number"),
        (
            ["inpaint", "no/such.png", "cat", "--guidance-scale", "inf"],
            "inf is no number",
        ),
        (["draw", "rocket", "--domain", "cats"], "emoji, shapes"),
        (
            ["draw", "rocket", "--domain", "shared"],
            "emoji, shapes",
        ),  # a domain of the zoo, but it draws nothing
        (["vary", "no/such.png"], "no/such.png"),
        (["blend", "no/such.png", "nor/this.png"], "no/such.png"),
        (["edit", "no/such.png", "cat", "dog"], "no/such.png"),
        (["inpaint", "no/such.png", "cat"], "no/such.png"),
        (["train", "cat-decoder"], "emoji-decoder"),
        (["train", "emoji-decoder", "--tier", "huge"], "smoke, cpu, gpu"),
        (["train", "emoji-decoder", "--mixed-precision", "int8"], "auto, no, bf16"),
        (["zoo", "train", "--tier", "huge"], "smoke, cpu, gpu"),
        (["zoo", "publish", "no/such/run"], "no/such/run"),
        (["evaluate", "cats"], "emoji, shapes"),
        (["trial", "cats"], "emoji, shapes"),
        (["seams", "cats"], "emoji, shapes"),
        (["seams", "emoji", "--n", "7"], "even"),
        (["draw", "rocket", "--prior", "oracle"], "prior, ar_prior, regression"),
        (["draw", "rocket", "--model", "dalle3"], "unclip, dalle1"),
        (
            ["draw", "rocket", "--model", "dalle1", "--prior-steps", "9"],
            "--prior-steps belongs to unclip",
        ),
        (["inpaint", "no/such.png", "cat", "--how", "guess"], "finetuned, replace"),
        (["data", "emoji", "--font", "no/such/font.ttf"], "no/such/font.ttf"),
    ],
    ids=lambda value: ascii(" ".join(value))[:60] if isinstance(value, list) else "",
)
def test_mistakes_take_one_line_and_exit_code_2(
    arguments, said, monkeypatch, capsys, fake_pipeline
):
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert err.startswith("dalle2-edu: ")
    assert out == ""


def test_unknown_device_is_named(monkeypatch, capsys, fake_pipeline):
    code, _, err = run(monkeypatch, capsys, "draw", "rocket", "--device", "abacus")
    assert code == 2
    assert "abacus" in err
    assert err.count("\n") == 1


def test_the_installed_command_shows_no_traceback():
    command = [sys.executable, "-m", "dalle2_edu.cli", "draw", ""]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1


def test_control_c_is_no_error(monkeypatch, capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "cards", interrupted)
    code, _, err = run(monkeypatch, capsys, "zoo", "list")
    assert code == 130
    assert "Traceback" not in err


# --- draw -----------------------------------------------------------------------------


@dataclass
class Drawn:
    images: Tensor


@dataclass
class FakePipeline:
    """Stands for UnCLIP: paints everything red and remembers what it was asked for."""

    asked: dict[str, Any] = field(default_factory=dict)

    def from_zoo(self, domain: str, device: str, prior: str) -> "FakePipeline":
        self.asked |= {"domain": domain, "device": device, "own prior": prior}
        return self

    def stages(self, prompts: list[str], **settings: Any) -> Drawn:
        self.asked |= {"prompts": prompts, **settings}
        red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None]  # (1, 3, 1, 1)
        return Drawn(red.expand(1, 3, 128, 128))


@pytest.fixture
def fake_pipeline(monkeypatch) -> FakePipeline:
    pipeline, module, sheet = (
        FakePipeline(),
        ModuleType("pipeline"),
        ModuleType("sheet"),
    )
    vars(module).update(
        vars(import_module("dalle2_edu.unclip.pipeline"))
    )  # whoever imports it first finds the rest
    module.UnCLIP = pipeline
    monkeypatch.setattr("dalle2_edu.data.domains.pick_domain", lambda prompt: "emoji")
    sheet.contact_sheet = lambda stages, path: Path(path).write_text(
        f"sheet of {len(stages.images)}"
    )
    monkeypatch.setitem(sys.modules, "dalle2_edu.unclip.pipeline", module)
    monkeypatch.setitem(sys.modules, "dalle2_edu.unclip.sheet", sheet)
    return pipeline


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Smiling cat!", "smiling-cat"),
        ("红色的 圆形", "红色的-圆形"),
        ("../?", "picture"),
    ],
)
def test_draw_writes_a_picture_and_its_steps(
    prompt, name, monkeypatch, capsys, fake_pipeline, tmp_path
):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(monkeypatch, capsys, "draw", prompt, "--device", "cpu")
    assert code == 0
    assert out.split() == [f"out/{name}.png", f"out/{name}_steps.png"]
    with Image.open(f"out/{name}.png") as picture:
        assert picture.size == (128, 128)
        assert picture.getpixel((5, 5)) == (255, 0, 0)
    assert Path(f"out/{name}_steps.png").read_text() == "sheet of 1"


def test_draw_hands_on_only_what_was_said(monkeypatch, capsys, fake_pipeline, tmp_path):
    words = [
        "draw",
        "火箭",
        "--domain",
        "shapes",
        "--seed",
        "7",
        "--prior-steps",
        "9",
        "--device",
        "cpu",
    ]
    words += ["--prior", "ar_prior"]
    run(monkeypatch, capsys, *words, "--out", str(tmp_path))
    assert fake_pipeline.asked == {
        "domain": "shapes",
        "device": "cpu",
        "prompts": ["火箭"],
        "seed": 7,
        "prior_steps": 9,
        "own prior": "ar_prior",
    }


def test_a_warning_is_one_line_too(monkeypatch, capsys, fake_pipeline, tmp_path):
    def warn(*_: Any, **__: Any) -> Drawn:
        warnings.warn("the prompt is too long", stacklevel=2)
        return Drawn(torch.zeros(1, 3, 128, 128))

    monkeypatch.setattr(FakePipeline, "stages", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest, **_: sys.stderr.write(
            warnings.formatwarning(message, *rest)
        )
        code, _, err = run(
            monkeypatch,
            capsys,
            "draw",
            "rocket",
            "--out",
            str(tmp_path),
            "--device",
            "cpu",
        )
    assert code == 0
    assert err == "dalle2-edu: the prompt is too long\n"


@pytest.fixture
def zoo_with_dalle1(monkeypatch, tmp_path) -> Path:
    """A zoo in which only DALL·E 1 lives, untrained."""
    folder = tmp_path / "zoo"
    card = zoo.Card(recipe="", tier="smoke", data_licence="")
    with zoo.at(folder):
        small = DvaeConfig(vocab_size=16, hidden=4, start=4, blocks=1, groups=3)
        zoo.save("shared", "dvae", Dvae(small), card)
        hashed = zoo.card("shared", "dvae").sha256
        config = Dalle1Config(words=16, width=8, layers=1, heads=1, dvae=hashed)
        zoo.save("shapes", "dalle1", Dalle1Transformer(config), card)
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_dalle1_draws_a_picture(monkeypatch, capsys, zoo_with_dalle1):
    words = ["draw", "红色的 圆形", "--model", "dalle1", "--device", "cpu"]
    code, out, _ = run(monkeypatch, capsys, *words)
    assert code == 0
    assert out.split() == ["out/红色的-圆形.png"]
    with Image.open("out/红色的-圆形.png") as picture:
        assert picture.size == (32, 32)


def test_dalle1_names_the_domains_that_it_knows(monkeypatch, capsys, zoo_with_dalle1):
    words = ["draw", "rocket", "--model", "dalle1", "--domain", "emoji"]
    code, _, err = run(monkeypatch, capsys, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert 'no domain for dalle1 "emoji"; choose one of: shapes' in err
    for weights in zoo_with_dalle1.glob("shapes/*"):
        weights.unlink()
    code, _, err = run(monkeypatch, capsys, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "no DALL·E 1 yet" in err


def test_draw_names_a_folder_that_cannot_be_written(
    monkeypatch, capsys, fake_pipeline, tmp_path
):
    (tmp_path / "out").write_text("a file, not a folder")
    code, _, err = run(
        monkeypatch,
        capsys,
        "draw",
        "rocket",
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    )
    assert code == 2
    assert str(tmp_path / "out") in err
    assert "prompts" not in fake_pipeline.asked  # noticed before the drawing, not after


# --- vary, blend, edit, inpaint -------------------------------------------------------


class FakeEditor(FakePipeline):
    """A pipeline whose latents are tiny and whose pictures are red."""

    def invert(self, picture: Any, **settings: Any) -> Latent:
        self.asked.setdefault("inverted", []).append(settings)
        place = float(len(self.asked["inverted"]))
        return Latent(torch.tensor([[place, 1.0]]), torch.full((1, 3, 2, 2), place))

    def words_direction(self, source: str, target: str) -> torch.Tensor:
        self.asked["words"] = source, target
        return torch.tensor([[0.0, 1.0]])

    def draw_noise(self, seeds: list[int]) -> torch.Tensor:
        return torch.full((len(seeds), 3, 2, 2), float(seeds[0]))

    def decode(self, latent: Latent, **settings: Any) -> torch.Tensor:
        self.asked |= {"latent": latent, **settings}
        return red_pictures(len(latent.z_i))


def red_pictures(n: int) -> torch.Tensor:
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None]  # (1, 3, 1, 1)
    return red.expand(n, 3, 128, 128)


@pytest.fixture
def fake_editor(fake_pipeline, monkeypatch, tmp_path) -> FakeEditor:
    from dalle2_edu.unclip import inpainting

    fake_pipeline.__class__ = FakeEditor

    def inpaint(unclip, *given: Any, **settings: Any) -> torch.Tensor:
        unclip.asked |= {"given": given, **settings}
        return red_pictures(settings["n"])

    monkeypatch.setattr(inpainting, "inpaint", inpaint)

    def picture_grid(titles, images, path, columns):
        path.write_text(f"{titles} {len(images)}")
        return path

    monkeypatch.setattr("dalle2_edu.drawing.grids.picture_grid", picture_grid)
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    hole = Image.new("RGBA", (60, 40), (255, 0, 0, 255))
    hole.paste((0, 0, 0, 0), (20, 10, 30, 20))
    hole.save(tmp_path / "hole.png")
    monkeypatch.chdir(tmp_path)
    return fake_pipeline


@pytest.mark.parametrize(
    ("arguments", "name", "count", "shown", "asked"),
    [
        (
            "vary red.png --n 2 --eta 0.5 --domain shapes",
            "red_vary",
            2,
            3,
            {"eta": 0.5, "seed": 0},
        ),
        (
            "blend red.png hole.png --steps 3 --fix-noise --seed 7",
            "red_hole_blend",
            3,
            5,
            {"seed": [7, 7, 7]},
        ),
        (
            "edit red.png dot 火箭 --max-theta 0.3",
            "red_火箭",
            6,
            7,
            {"words": ("dot", "火箭"), "seed": [0] * 6},
        ),
        (
            "inpaint hole.png cat --n 1 --seed 4",
            "hole_inpaint",
            1,
            3,
            {"n": 1, "seed": 4},
        ),
        (
            "inpaint red.png cat --mask hole.png",
            "red_inpaint",
            3,
            5,
            {"n": 3, "method": None},
        ),
        (
            "inpaint hole.png cat --n 1 --how replace",
            "hole_inpaint",
            1,
            3,
            {"method": "replace"},
        ),
    ],
)
def test_an_edit_writes_its_pictures_and_a_sheet(
    arguments, name, count, shown, asked, monkeypatch, capsys, fake_editor
):
    code, out, _ = run(monkeypatch, capsys, *arguments.split(), "--device", "cpu")
    assert code == 0
    assert out.split() == [
        *(f"out/{name}_{i + 1}.png" for i in range(count)),
        f"out/{name}.png",
    ]
    assert (
        Path(f"out/{name}.png").read_text().endswith(f" {shown}")
    )  # what was given stands on the sheet too
    with Image.open(f"out/{name}_1.png") as picture:
        assert picture.getpixel((5, 5)) == (255, 0, 0)
    assert asked.items() <= fake_editor.asked.items()


def test_a_blend_with_one_noise_and_a_text_diff_decode_what_was_asked_for(
    monkeypatch, capsys, fake_editor
):
    words = [
        "blend",
        "red.png",
        "hole.png",
        "--steps",
        "3",
        "--seed",
        "7",
        "--device",
        "cpu",
    ]
    run(monkeypatch, capsys, *words)
    assert fake_editor.asked["latent"].x_T[:, 0, 0, 0].tolist() == pytest.approx(
        [1.0, 1.5, 2.0]
    )
    run(monkeypatch, capsys, *words, "--fix-noise")
    assert fake_editor.asked["latent"].x_T[:, 0, 0, 0].tolist() == [7.0, 7.0, 7.0]
    words = [
        "edit",
        "red.png",
        "",
        "dot",
        "--max-theta",
        "1",
        "--steps",
        "2",
        "--device",
        "cpu",
    ]
    run(monkeypatch, capsys, *words)
    z_i = fake_editor.asked["latent"].z_i
    assert torch.allclose(z_i[1], torch.tensor([0.0, 1.0]), atol=1e-6)  # all the way


def test_the_transparent_part_is_what_is_painted(monkeypatch, capsys, fake_editor):
    run(monkeypatch, capsys, "inpaint", "hole.png", "cat", "--device", "cpu")
    _, mask, prompt = fake_editor.asked["given"]
    assert prompt == "cat"
    assert mask.getbbox() == (20, 10, 30, 20)


def test_inpaint_asks_where_if_nothing_says_so(monkeypatch, capsys, fake_editor):
    code, _, err = run(
        monkeypatch, capsys, "inpaint", "red.png", "cat", "--device", "cpu"
    )
    assert code == 2
    assert "--mask" in err and err.count("\n") == 1
    assert "given" not in fake_editor.asked


# --- trial ----------------------------------------------------------------------------


def test_the_trial_prints_its_table_and_writes_what_was_asked_for(
    monkeypatch, capsys, tmp_path
):
    from dalle2_edu.evaluation import trial

    def hold(
        domain: str, plan: Any, sweep: bool, out: Path, device: str
    ) -> dict[str, Any]:
        out.write_bytes(b"a grid")
        return {
            "domain": domain,
            "captions": plan.captions,
            "seed": plan.seed,
            "tables": [],
            "missing": ["(d): none"],
        }

    monkeypatch.setattr(trial, "trial", hold)
    out, numbers = tmp_path / "new" / "trial.png", tmp_path / "trial.json"
    words = [
        "trial",
        "emoji",
        "--n",
        "6",
        "--no-sweep",
        "--out",
        str(out),
        "--json",
        str(numbers),
        "--device",
        "cpu",
    ]
    code, printed, _ = run(monkeypatch, capsys, *words)
    assert code == 0
    assert (
        "emoji: 6 captions" in printed and "(d): none" in printed and "16.55" in printed
    )
    assert out.read_bytes() == b"a grid" and '"captions": 6' in numbers.read_text()


def test_the_trial_refuses_an_odd_number_of_captions(monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "trial", "emoji", "--n", "7")
    assert code == 2
    assert "even" in err and err.count("\n") == 1


# --- seams ----------------------------------------------------------------------------


def test_seams_are_printed_as_a_table(monkeypatch, capsys, tmp_path):
    from dalle2_edu.evaluation import seams
    from dalle2_edu.evaluation.intervals import Measure
    from dalle2_edu.evaluation.tables import table

    asked: list[Any] = []

    def hold(*arguments: Any) -> dict[str, Any]:
        asked.extend(arguments)
        return table(
            "the seam",
            ["own", "other"],
            {"replaced": [Measure(1.0, 0.0, 2.0, 6), None]},
        )

    monkeypatch.setattr(seams, "contest", hold)
    out = tmp_path / "new" / "seams.png"
    words = [
        "seams",
        "emoji",
        "--n",
        "6",
        "--seed",
        "3",
        "--out",
        str(out),
        "--markdown",
        "--device",
        "cpu",
    ]
    code, printed, _ = run(monkeypatch, capsys, *words)
    assert code == 0 and asked == ["emoji", 6, 3, out, "cpu"]
    assert "| replaced | 1.0 [0.0, 2.0] 6 | - |" in printed


# --- zoo ------------------------------------------------------------------------------


def test_an_empty_zoo_is_listed_and_fails_to_verify(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DALLE2_EDU_ZOO", str(tmp_path))
    code, out, _ = run(monkeypatch, capsys, "zoo", "list")
    assert code == 0
    every = len(runs.trainings())
    assert out.count("not here") == every
    code, out, err = run(monkeypatch, capsys, "zoo", "verify")
    assert code == 2
    assert out.count("BAD") == every
    assert f"{every} of the {every}" in err


def test_a_zoo_of_your_own_is_an_option_of_every_command(monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, "--zoo", str(tmp_path), "zoo", "list")
    assert code == 0
    assert out.count("not here") == len(runs.trainings())
    code, out, _ = run(monkeypatch, capsys, "zoo", "list")  # and of this command alone
    assert code == 0
    assert "not here" not in out


def test_zoo_train_publishes_each_run_into_a_zoo_of_its_own(
    monkeypatch, capsys, tmp_path
):
    done = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        runs, "run", lambda name, tier, out, **rest: done.append((name, out))
    )
    monkeypatch.setattr(
        runs, "publish", lambda out: done.append((out, str(zoo.folder())))
    )
    code, out, _ = run(monkeypatch, capsys, "zoo", "train", "--tier", "smoke")
    assert code == 0
    first = next(iter(runs.trainings()))
    run_dir = Path("runs/zoo-smoke") / first
    assert done[:2] == [(first, run_dir), (run_dir, str(Path("runs/zoo-smoke/zoo")))]
    assert len(done) == 2 * len(runs.trainings())
    assert "--zoo runs/zoo-smoke/zoo draw" in out
    assert zoo.folder() == zoo.SHIPPED


def test_threads_wait_passively_unless_you_said_otherwise():
    code = "import dalle2_edu.cli, os; print(os.environ['OMP_WAIT_POLICY'])"
    for said, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": said} if said else {}
        command = [sys.executable, "-c", code]
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True
        )
        assert answer.stdout.strip() == expected


def test_choose_returns_the_known_and_lists_them_otherwise():
    assert choose("tier", "cpu", ["smoke", "cpu"]) == "cpu"
    with pytest.raises(Dalle2EduError, match="smoke, cpu"):
        choose("tier", "huge", ["smoke", "cpu"])
