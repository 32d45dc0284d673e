"""The engine: what is cached, what is redone, and what a stopped stage leaves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rsdistill
from rsdistill.errors import StorageError, UnknownNameError
from rsdistill.pipeline.engine import Pipeline, Stage


class Made(Stage):
    """A stage that calls a function."""

    options = None

    def __init__(self, name, options, inputs, make):
        self.name, self.options, self.inputs, self._make = name, options, inputs, make

    def make(self, folder, checkpoint):
        return self._make(folder, checkpoint)


class Recorder:
    """Three stages that note each time they are made."""

    def __init__(self, folder):
        self.folder, self.made = folder, []

    def pipeline(self, second=1, broken=None):
        return Pipeline(
            self.folder,
            [
                first := Made("first", {"a": 1}, (), self._make("first", broken)),
                middle := Made("second", {"b": second}, (first,), self._make("second", broken)),
                Made("third", {}, (middle,), self._make("third", broken)),
                Made("aside", {}, (first,), self._make("aside", broken)),
            ],
        )

    def _make(self, name, broken):
        def make(result, checkpoint):
            self.made.append((name, sorted(p.name for p in checkpoint.iterdir())))
            (checkpoint / "half").write_text("kept")
            (result / "out.txt").write_text(name)
            if name == broken:
                raise KeyboardInterrupt
            return {"size": 1}

        return make


@pytest.fixture
def recorder(tmp_path):
    return Recorder(tmp_path / "run")


def names(recorder):
    return [name for name, _ in recorder.made]


def test_all_stages_once_then_none(recorder):
    recorder.pipeline().run()
    states = recorder.pipeline().run()
    assert names(recorder) == ["first", "second", "third", "aside"]
    assert [state.folder.name for state in states] == ["01_first", "02_second", "03_third", "04_aside"]
    assert all(state.cached and state.figures == {"size": 1} for state in states)
    assert sorted(p.name for p in recorder.folder.iterdir()) == ["01_first", "02_second", "03_third", "04_aside"]


def test_change_redoes_the_stage_and_what_follows_from_it_alone(recorder):
    recorder.pipeline().run()
    recorder.made.clear()
    states = recorder.pipeline(second=2).states()
    assert [state.cached for state in states] == [True, False, False, True]
    recorder.pipeline(second=2).run()
    assert names(recorder) == ["second", "third"]


def test_a_stage_more_or_less_moves_the_others_and_leaves_no_doubles(recorder):
    first, second, _, aside = recorder.pipeline().stages
    many = Pipeline(recorder.folder, [first, second, aside])
    first, _, _, aside = recorder.pipeline().stages
    few = Pipeline(recorder.folder, [first, aside])
    few.run()
    assert [state.folder.name for state in few.states()] == ["01_first", "02_aside"]
    (recorder.folder / "02_aside" / "mine").touch()
    # What was made is found where it lies, and brought to its place by the next run.
    assert [state.cached for state in many.states()] == [True, False, True]
    many.run()
    assert names(recorder) == ["first", "aside", "second"]
    assert sorted(p.name for p in recorder.folder.iterdir()) == ["01_first", "02_second", "03_aside"]
    assert (recorder.folder / "03_aside" / "mine").exists()
    few.run("first")
    assert (recorder.folder / "02_aside" / "mine").exists()


def test_new_version_of_the_code_redoes_all(recorder, monkeypatch):
    recorder.pipeline().run()
    monkeypatch.setattr("rsdistill.pipeline.engine.code_version", lambda *_: "99")
    assert not any(state.cached for state in recorder.pipeline().states())


KEY = """
import sys
from rsdistill.pipeline.config import parse_config
from rsdistill.pipeline.run import Run
print(Run(parse_config({"name": "mine", "out": sys.argv[1], "data": {"name": "synthetic"}})).pipeline.states()[0].key)
"""


def test_a_changed_line_that_nobody_committed_gives_another_key(tmp_path):
    shutil.copytree(Path(rsdistill.__file__).parent, tmp_path / "rsdistill")

    def key():
        command = [sys.executable, "-c", KEY, str(tmp_path / "runs")]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    before = key()
    assert key() == before
    changed = tmp_path / "rsdistill" / "pipeline" / "stages.py"
    changed.write_text(changed.read_text("utf-8").replace("_IN_MEMORY = 2e9", "_IN_MEMORY = 3e9"), encoding="utf-8")
    assert key() != before


def test_stopped_stage_leaves_no_result_and_finds_its_checkpoint(recorder):
    with pytest.raises(KeyboardInterrupt):
        recorder.pipeline(broken="second").run()
    assert not (recorder.folder / "02_second").exists()
    states = recorder.pipeline().run()
    assert recorder.made[1:3] == [("second", []), ("second", ["half"])]
    assert all(state.cached for state in states)
    assert not (recorder.folder / ".work").exists()


def test_checkpoint_of_other_options_is_not_used(recorder):
    with pytest.raises(KeyboardInterrupt):
        recorder.pipeline(broken="second").run()
    recorder.pipeline(second=2).run()
    assert recorder.made[2] == ("second", [])


def test_until_stops_after_the_stage_and_unknown_ones_are_refused(recorder):
    recorder.pipeline().run(until="second")
    assert names(recorder) == ["first", "second"]
    with pytest.raises(UnknownNameError, match="did you mean 'third'"):
        recorder.pipeline().run(until="thrid")


def test_damaged_record_is_named(recorder):
    recorder.pipeline().run()
    record = recorder.folder / "01_first" / "stage.json"
    record.write_text("{")
    with pytest.raises(Exception, match="01_first/stage.json cannot be read"):
        recorder.pipeline().states()
    record.write_text(json.dumps({"key": "other"}))
    assert not recorder.pipeline().states()[0].cached


def test_folder_in_the_way_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="file"):
        Recorder(blocked / "run").pipeline().run()
