"""Policies: what they make of classes, which rule wins, and that every mistake is an error that says where."""

import pytest

from rsdistill.classes import ClassInfo
from rsdistill.errors import PolicyError
from rsdistill.sensitive.policy import Policy
from rsdistill.sensitive.resolved import PolicyRecord
from rsdistill.sensitive.scrub import find_terms
from rsdistill.sensitive.taxonomy import load_taxonomy

GOOD = """\
dataset: any
rules:
  - {sector: [energy, transport], action: exclude, reason: supply}
  - {sector: [none, food], action: allow}
  - {sector: homes, action: coarsen, into: housing}
"""
CLASSES = load_taxonomy().classes("synthetic")


@pytest.fixture
def policy(tmp_path):
    """Loads a policy from text."""

    def load(text):
        path = tmp_path / "policy.yaml"
        path.write_text(text)
        return Policy.load(path)

    return load


def actions(resolved):
    return {decision.key: decision.action for decision in resolved.decisions}


def test_rules_by_sector(policy):
    resolved = policy(GOOD).resolve(CLASSES, "synthetic")
    assert resolved.excluded == ("motorway_interchange", "runway", "storage_tanks", "solar_farm")
    assert resolved.target["residential"] == "housing"
    assert resolved.read == ("forest", "cropland", "centre_pivot_farmland", "river", "beach", "residential")
    assert [c.key for c in resolved.classes][-1] == "housing"
    assert resolved.classes[-1] == ClassInfo("housing", "housing", "homes")
    assert resolved.classes[0] == CLASSES[0]
    assert resolved.decisions[-1].rule == "rule 1, line 3: exclude sector energy, transport"
    assert resolved.decisions[-1].reason == "supply"


def test_class_goes_before_pattern_and_pattern_before_sector(policy):
    text = GOOD + '  - {pattern: "*o*", action: protect}\n  - {class: solar_farm, action: allow}\n'
    found = actions(policy(text).resolve(CLASSES, "synthetic"))
    assert found["solar_farm"] == "allow"
    assert found["storage_tanks"] == found["forest"] == "protect"
    assert found["runway"] == "exclude"
    assert policy(text).resolve(CLASSES, "synthetic").protected == {
        "forest", "cropland", "centre_pivot_farmland", "motorway_interchange", "storage_tanks"
    }  # fmt: skip


def test_a_rule_that_spells_a_class_as_another_dataset_does_is_not_passed_over(policy):
    """UC Merced's ``storagetanks`` are RESISC45's ``storage_tank``: a pattern would let out what a rule excludes."""
    text = "dataset: any\nrules:\n  - {class: storagetanks, action: exclude}\n  - {pattern: '*', action: allow}\n"
    resisc = load_taxonomy().classes("resisc45")
    with pytest.raises(PolicyError, match="rule 1, line 3: class 'storagetanks' is called 'storage_tank' in resisc45"):
        policy(text).resolve(resisc, "resisc45")
    both = text.replace("storagetanks", "[storagetanks, storage_tank]")
    assert policy(both).resolve(resisc, "resisc45").excluded == ("storage_tank",)
    own = text + "  - {class: storage_tank, action: allow}\n"
    assert not policy(own).resolve(resisc, "resisc45").excluded
    assert not policy(text.replace("exclude", "allow")).resolve(resisc, "resisc45").excluded


def test_two_rules_that_agree_do_not_contradict(policy):
    policy(GOOD + "  - {sector: food, action: allow}\n").resolve(CLASSES, "synthetic")


def test_pattern_disregards_case(policy):
    text = GOOD.replace("[none, food]", "[none, food, industry, government, commercial]")
    resolved = policy(text + "  - {pattern: '*RESIDENTIAL', action: exclude}\n").resolve(
        load_taxonomy().classes("aid"), "aid"
    )
    assert {"DenseResidential", "MediumResidential", "SparseResidential"} < set(resolved.excluded)


def test_terms_are_the_names_of_what_is_hidden(policy):
    resolved = policy(GOOD + "excluded_terms: [apron]\n").resolve(CLASSES, "synthetic")
    assert {"storage_tanks", "storage tanks", "storage tank", "runways", "residential", "apron"} <= set(resolved.terms)
    assert not find_terms("housing, forests, a river and centre-pivot farmland", resolved.terms, resolved.kept_names)
    assert find_terms("Solar-farms", resolved.terms, resolved.kept_names)


def test_class_merged_into_one_of_its_own_name_hides_nothing(policy):
    text = "dataset: aid\nrules:\n  - {pattern: '*residential', action: coarsen, into: residential}\n"
    classes = [ClassInfo("Residential", "residential"), ClassInfo("DenseResidential", "dense residential")]
    resolved = policy(text.replace("aid", "folder") + "  - {class: sea, action: allow}\n").resolve(
        [*classes, ClassInfo("sea", "sea")], "folder"
    )
    assert "residential" not in resolved.terms
    assert "dense residential" in resolved.terms


def test_merging_into_a_protected_class_keeps_it_protected(policy):
    text = GOOD.replace("coarsen, into: housing", "coarsen, into: forest") + "  - {class: forest, action: protect}\n"
    resolved = policy(text).resolve(CLASSES, "synthetic")
    assert resolved.protected == {"forest"}
    assert [c.key for c in resolved.classes] == ["forest", "cropland", "centre_pivot_farmland", "river", "beach"]
    # Members of different sectors leave the merged class without one.
    assert resolved.classes[0].sector is None


def test_record_counts_and_names_only_what_is_disclosed(policy):
    record = policy(GOOD).resolve(CLASSES, "synthetic").record()
    assert record.counts == {"excluded": 4, "merged": 1, "protected": 0, "allowed": 5}
    assert "runway" not in str(record.to_dict())
    told = policy(GOOD + "disclose: true\n").resolve(CLASSES, "synthetic").record()
    assert told.to_dict()["disclosed"] == {
        "excluded": ["motorway_interchange", "runway", "storage_tanks", "solar_farm"],
        "merged": {"residential": "housing"},
    }
    for each in (record, told):
        assert PolicyRecord.from_dict(each.to_dict()) == each


def test_digest_is_of_the_content_alone(policy, tmp_path):
    plain = policy(GOOD).digest
    assert policy("# why\n\n" + GOOD).digest == plain
    assert policy(GOOD.replace("housing", "homes_")).digest != plain
    assert policy(GOOD + "excluded_terms: [apron]\n").digest != plain
    assert policy(GOOD + "disclose: true\n").digest != plain
    other = tmp_path / "elsewhere.yaml"
    other.write_text(GOOD)
    assert Policy.load(other).digest == plain


def test_users_own_classes_get_sectors_from_the_policy(policy):
    own = [ClassInfo("dock", "dock"), ClassInfo("farm", "farm"), ClassInfo("wood", "wood")]
    text = "dataset: folder\nclasses: {dock: transport, farm: food, wood: none}\n" + GOOD.split("\n", 1)[1]
    resolved = policy(text).resolve(own, "folder")
    assert resolved.excluded == ("dock",)
    assert {d.key: d.sector for d in resolved.decisions} == {"dock": "transport", "farm": "food", "wood": "none"}
    # A class that nobody assigned is not one of no sector: 'none' does not cover it.
    with pytest.raises(PolicyError, match="no rule covers class 'wood' of folder, which is assigned to no sector"):
        policy(text.replace(", wood: none", "")).resolve(own, "folder")


BAD = {
    "empty": ("", "must hold 'dataset:' and 'rules:'"),
    "list": ("- a", "must hold 'dataset:' and 'rules:'"),
    "not yaml": ("dataset: [", r"not valid YAML \(line 1\)"),
    "no dataset": (GOOD.replace("dataset: any\n", ""), "lacks 'dataset:'"),
    "no rules": ("dataset: any\nrules: []\n", "lacks 'rules:'"),
    "misspelt rules": (GOOD.replace("rules:", "ruls:"), "lacks 'rules:' and does not know 'ruls'"),
    "rules no list": ("dataset: any\nrules: {sector: energy}\n", "option rules"),
    "key misspelt": (GOOD + "excluded_termss: [a]\n", "'excluded_termss': did you mean 'excluded_terms'"),
    "key twice": (GOOD + "rules: []\n", "line 6: 'rules' is given twice"),
    "key of a rule twice": (
        GOOD + "  - {class: river, class: beach, action: allow}\n",
        "line 6: 'class' is given twice",
    ),
    "key of a rule misspelt": (
        GOOD.replace("into:", "intoo:"),
        "rule 3, line 5: unknown key 'intoo': did you mean 'into'",
    ),
    "rule no group": (GOOD + "  - forest\n", "rule 4, line 6: must be a group"),
    "unknown action": (GOOD.replace("action: allow", "action: alow"), "rule 2, line 4.*did you mean 'allow'"),
    "no action": (GOOD + "  - {class: river}\n", "rule 4, line 6: unknown action 'None'"),
    "unknown sector": (
        GOOD.replace("homes", "hommes"),
        "rule 3, line 5: unknown sector 'hommes': did you mean 'homes'",
    ),
    "unknown class": (
        GOOD + "  - {class: runwai, action: allow}\n",
        "rule 4, line 6: unknown class 'runwai': did you mean 'runway'",
    ),
    "class of another dataset": (
        GOOD.replace("dataset: any", "dataset: synthetic") + "  - {class: airport, action: allow}\n",
        "rule 4, line 6: unknown class 'airport'",
    ),
    "pattern of nothing": (
        GOOD + "  - {pattern: '*runwai', action: allow}\n",
        "matches no class: did you mean 'runway'",
    ),
    "two selectors": (GOOD + "  - {sector: food, pattern: a, action: allow}\n", "exactly one of.*pattern and sector"),
    "no selector": (GOOD + "  - {action: allow}\n", "exactly one of.*given: none"),
    "names nothing": (GOOD + "  - {class: [], action: allow}\n", "names nothing"),
    "name no text": (GOOD + "  - {class: 3, action: allow}\n", "rule 4, line 6: option names"),
    "coarsen without into": (GOOD + "  - {class: river, action: coarsen}\n", "'into: NAME' belongs"),
    "into without coarsen": (GOOD + "  - {class: river, action: allow, into: lake}\n", "'into: NAME' belongs"),
    "sector of a class": (GOOD + "classes: {dock: transprot}\n", "classes.dock: unknown sector 'transprot'"),
    "uncovered class": (GOOD.replace("[none, food]", "none"), "no rule covers class 'cropland' of synthetic"),
    "contradiction": (
        GOOD + "  - {sector: homes, action: protect}\n",
        "for class 'residential': rule 3, line 5: coarsen sector homes; and rule 4, line 6: protect",
    ),
    "contradictory parents": (GOOD + "  - {sector: homes, action: coarsen, into: town}\n", "contradictory rules"),
    "everything excluded": (
        "dataset: any\nrules:\n  - {pattern: '*', action: exclude}\n",
        "excludes every class of synthetic",
    ),
    "one class left": (
        "dataset: any\nrules:\n  - {pattern: '*', action: exclude}\n  - {class: river, action: allow}\n",
        "leaves one class of synthetic, 'river'",
    ),
    "one merged class left": (
        "dataset: any\nrules:\n  - {pattern: '*', action: coarsen, into: land}\n",
        "leaves one class",
    ),
    "merged into excluded": (
        GOOD + "  - {class: beach, action: coarsen, into: runway}\n",
        "merged into 'runway'.*which is excluded",
    ),
    "merged into merged": (
        GOOD + "  - {class: beach, action: coarsen, into: residential}\n",
        "is merged into 'housing' itself",
    ),
    "parent gives away": (
        GOOD + "  - {class: beach, action: coarsen, into: runway-side}\n",
        "gives an excluded class away",
    ),
    "parent no key": (GOOD + "  - {class: beach, action: coarsen, into: ../shore}\n", "is no class key"),
    "term of a kept class": (GOOD + "excluded_terms: [rivers]\n", "'river' may stand in no text"),
    "another dataset": (GOOD.replace("dataset: any", "dataset: aid"), "is for dataset 'aid', not 'synthetic'"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_mistake_is_an_error_that_says_where(text, message, policy):
    with pytest.raises(PolicyError, match=message):
        policy(text).resolve(CLASSES, "synthetic")


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(PolicyError, match=r"none\.yaml does not exist"):
        Policy.load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PolicyError, match=r"bytes\.yaml"):
        Policy.load(tmp_path / "bytes.yaml")


def test_unknown_class_of_a_users_own_folder(policy):
    text = "dataset: folder\nclasses: {dock: transport}\nrules:\n  - {pattern: '*', action: allow}\n"
    with pytest.raises(PolicyError, match="unknown class 'dock': did you mean 'docks'"):
        policy(text).resolve([ClassInfo("docks", "docks"), ClassInfo("farm", "farm")], "folder")
