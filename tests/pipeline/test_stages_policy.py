"""Runs and commands under a policy: keys, manifests, what protected classes forbid, and what is printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.miniature import CONFIGS, synthetic

from rsdistill.cli.main import main
from rsdistill.distillers import create_distiller
from rsdistill.errors import EXIT_CODE, PolicyError
from rsdistill.pipeline.config import load_config
from rsdistill.pipeline.run import Run
from rsdistill.pipeline.setup import check_protection
from rsdistill.sensitive.policy import Policy
from rsdistill.sensitive.taxonomy import load_taxonomy

QUICKSTART = str(CONFIGS / "quickstart.yaml")
EXAMPLE = CONFIGS / "policies" / "infrastructure.yaml"
DOCS = CONFIGS.parent / "docs" / "sensitive.md"
RULES = """\
dataset: synthetic
rules:
  - {class: [runway, storage_tanks], action: exclude}
  - {class: river, action: ACTION}
  - {pattern: "*", action: allow}
"""


@pytest.fixture
def policy(tmp_path):
    """Writes a policy; returns its path as text."""

    def write(text=RULES, action="allow"):
        path = tmp_path / "policy.yaml"
        path.write_text(text.replace("ACTION", action))
        return str(path)

    return write


def configured(tmp_path, *more, **options):
    values = {"data__classes": "[forest, river]"} | options
    return load_config(QUICKSTART, [*synthetic(tmp_path, **values), *more])


def key(config):
    return Run(config).pipeline.states()[0].key


def test_key_follows_what_the_policy_says_and_not_where_it_lies(tmp_path, policy):
    path = policy()
    first = key(configured(tmp_path, data__policy=path))
    assert first != key(configured(tmp_path))
    moved = tmp_path / "moved.yaml"
    moved.write_text("# moved\n" + Path(path).read_text())
    assert key(configured(tmp_path, data__policy=moved)) == first
    moved.write_text(Path(path).read_text() + "excluded_terms: [apron]\n")
    assert key(configured(tmp_path, data__policy=moved)) != first


def test_mistakes_end_in_one_line_before_a_folder_is_made(tmp_path, policy, capsys):
    for text, message in (
        (
            RULES.replace("synthetic", "aid").replace("runway, storage_tanks", "Port").replace("river", "River"),
            "for dataset 'aid'",
        ),
        (RULES.replace("runway", "runwey"), "did you mean 'runway'"),
        (RULES + "  - {class: river, action: protect}\n", "contradictory rules for class 'river'"),
        ("dataset: any\nrules:\n  - {pattern: '*', action: exclude}\n", "excludes every class"),
    ):
        options = synthetic(tmp_path / "runs", data__policy=policy(text), data__classes="[forest, river]")
        assert main(["run", QUICKSTART, *options]) == EXIT_CODE
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert message in said[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"distill__options__prototypes__kind": "representative"},
            "class 'river' is protected.*prototypes.kind is 'representative'; it must be 'kanonymous'",
        ),
        (
            {"distill__options__prototypes__kind": "kanonymous", "distill__options__soft_labels__top_k": 3},
            "class 'river' is protected.*distill.options.soft_labels",
        ),
    ],
)
def test_protected_class_forbids(options, message, tmp_path, policy):
    with pytest.raises(PolicyError, match=message):
        Run(configured(tmp_path, data__policy=policy(action="protect"), **options))
    Run(configured(tmp_path, data__policy=policy(action="allow"), **options))


def test_protected_class_goes_with_shared_prototypes(tmp_path, policy):
    run = Run(
        configured(tmp_path, data__policy=policy(action="protect"), distill__options__prototypes__kind="kanonymous")
    )
    assert run.setup.policy.protected == {"river"}
    assert "runways" in run.setup.policy.terms


def test_methods_and_captioners_of_a_protected_class():
    shared = create_distiller("dpd", prototypes={"kind": "kanonymous"})
    check_protection(shared, {"river"})
    with pytest.raises(PolicyError, match="class 'river' is protected.*captioner 'vlm'"):
        check_protection(shared, {"river"}, captioner="vlm")
    with pytest.raises(
        PolicyError, match="class 'lake' is protected by the policy, as 1 more.*'random' hands out real"
    ):
        check_protection(create_distiller("random"), {"river", "lake"})
    check_protection(create_distiller("random"), ())


def test_prompt_may_not_say_what_is_kept_out(tmp_path, policy):
    with pytest.raises(PolicyError, match=r"distill\.options\.prompt says 'runways'"):
        Run(configured(tmp_path, "--distill.options.prompt", "{name} near runways", data__policy=policy()))


def test_screen_sees_every_class_whatever_the_run_takes(tmp_path, policy, monkeypatch):
    """The classes of a run may not name an excluded one, yet the screen must know what that looks like."""
    seen = []

    def train_detectors(data, excluded, *_):
        seen.append(({info.key for info in data.classes}, set(excluded)))
        raise KeyboardInterrupt

    monkeypatch.setattr("rsdistill.pipeline.output_stages.train_detectors", train_detectors)
    with pytest.raises(KeyboardInterrupt):
        stages = Run(configured(tmp_path, data__policy=policy())).pipeline.stages
        next(stage for stage in stages if stage.name == "screen").make(tmp_path, tmp_path)
    (classes, excluded) = seen[0]
    assert excluded == {"runway", "storage_tanks"} < classes


@pytest.mark.slow
def test_manifests_say_which_policy_and_what_it_did(tmp_path, policy):
    options = {"data__classes": "[forest, river, beach]", "data__policy": policy()} | {"distill__method": "random"}
    arguments = synthetic(tmp_path / "runs", **options)
    kept = [
        (n, v) for n, v in zip(arguments[::2], arguments[1::2], strict=True) if not n.startswith("--distill.options.")
    ]
    arguments = [part for pair in kept for part in pair]
    assert main(["run", QUICKSTART, "--until", "distill", *arguments]) == 0
    folder = tmp_path / "runs" / "quickstart"
    index = json.loads(next(folder.glob("*_prepare/chips/index.json")).read_text())
    assert index["policy"]["digest"] == Policy.load(policy()).digest
    assert index["policy"]["counts"] == {"excluded": 2, "merged": 0, "protected": 0, "allowed": 8}
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"runway" not in path.read_bytes()


def test_check_prints_what_the_docs_show(capsys, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    assert main(["policy", "check", "configs/policies/infrastructure.yaml"]) == 0
    printed = capsys.readouterr().out.strip()
    assert f"```\n{printed}\n```" in DOCS.read_text(encoding="utf-8")


def test_policy_in_the_docs_is_one(policy):
    block = DOCS.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    resolved = Policy.load(policy(block)).resolve(load_taxonomy().classes("aid"), "aid")
    assert resolved.protected == {"Industrial"}
    assert resolved.target["DenseResidential"] == "housing"


@pytest.mark.parametrize("name", load_taxonomy().datasets)
def test_example_fits_every_dataset(name, capsys):
    assert main(["policy", "check", str(EXAMPLE), "--dataset", name]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")


@pytest.mark.parametrize("name", load_taxonomy().datasets)
def test_policy_to_start_from_passes_the_check(name, tmp_path, capsys):
    assert main(["policy", "init", name, "--out", str(tmp_path / "new" / "start.yaml")]) == 0
    assert main(["policy", "check", str(tmp_path / "new" / "start.yaml")]) == 0
    said = capsys.readouterr().out
    assert "drops" in said
    assert "allows" in said
    assert main(["policy", "init", name, "--out", str(tmp_path / "new" / "start.yaml")]) == EXIT_CODE


def test_policy_to_start_from_for_a_users_own_folder(tmp_path, capsys):
    for key in ("dock", "farm", "hall: old"):
        (tmp_path / "own" / key).mkdir(parents=True)
    start = str(tmp_path / "start.yaml")
    assert main(["policy", "init", "folder", "--root", str(tmp_path / "own"), "--out", start]) == 0
    assert main(["policy", "check", start, "--root", str(tmp_path / "own")]) == 0
    assert "allows    dock, farm, hall: old" in capsys.readouterr().out
    assert main(["policy", "init", "folder"]) == EXIT_CODE
    assert "root" in capsys.readouterr().err


def test_show_names_each_class_its_sector_and_its_rule(capsys):
    assert main(["policy", "show", str(EXAMPLE), "--dataset", "aid"]) == 0
    said = capsys.readouterr().out
    for key in load_taxonomy().datasets["aid"]:
        assert f"\n{key} " in said
    assert "rule 6, line 27: protect sector industry (single sites can be recognised)" in said
    assert "coarsen into housing" in said


def test_check_says_what_is_wrong(tmp_path, policy, capsys):
    assert main(["policy", "check", policy(RULES.replace("runway", "runwey"))]) == EXIT_CODE
    assert "did you mean 'runway'" in capsys.readouterr().err
    assert main(["policy", "check", policy(), "--dataset", "aid"]) == EXIT_CODE
    assert "is for dataset 'synthetic', not 'aid'" in capsys.readouterr().err
    assert main(["policy", "check", policy(), "--dataset", "synthetik"]) == EXIT_CODE
    assert "did you mean 'synthetic'" in capsys.readouterr().err
    assert main(["policy", "check", policy(), "--all"]) == EXIT_CODE


def test_output_that_nobody_reads_on_is_no_traceback():
    """``rsdistill policy show FILE | head`` closes the pipe before all is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "rsdistill", "policy", "show", str(EXAMPLE)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141 and not done.stderr
