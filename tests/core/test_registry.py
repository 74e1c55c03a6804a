"""The two lists of scores, and of every enumeration, must say the same: Python's and the compiled one."""

from kgfast import _C, reference, registry

SIMILARITIES = tuple(reference.SIMILARITIES)  # the order of the compiled codes


def differences(specified, compiled):
    """A sentence for each score that isn't the same in {name: similarity} of both lists."""
    where = {"specified": "kgfast/reference/scores.py", "compiled": "KGFAST_SCORES in csrc/include/kgfast/scores.h"}
    found = []
    for name in [*specified, *(name for name in compiled if name not in specified)]:
        if name not in compiled:
            found.append(f"{name!r} is in {where['specified']}, but not in {where['compiled']} (or not built yet).")
        elif name not in specified:
            found.append(f"{name!r} is in {where['compiled']}, but not in {where['specified']}.")
        elif specified[name] != compiled[name]:
            found.append(
                f"{name!r} has similarity {specified[name]!r} in {where['specified']}, "
                f"but {compiled[name]!r} in {where['compiled']}."
            )
    return found


LISTS = {
    "Side": "KGFAST_SIDES in csrc/include/kgfast/core.h",
    "Similarity": "KGFAST_SIMILARITIES in csrc/include/kgfast/scores.h",
    "Objective": "KGFAST_OBJECTIVES in csrc/include/kgfast/objectives.h",
    "Update": "KGFAST_UPDATES in csrc/include/kgfast/updates.h",
    "Regularizer": "KGFAST_REGULARIZERS in csrc/include/kgfast/regularizers.h",
}


def differences_of_codes(ours, compiled):
    """A sentence for each word that has not the same code in {enumeration: {word: code}} of both sides."""
    found = []
    for enumeration, file in LISTS.items():
        here, there = ours.get(enumeration, {}), compiled.get(enumeration, {})
        where = f"{enumeration} in kgfast/registry.py"
        for word in sorted({*here, *there}):
            if word not in there:
                found.append(f"{word!r} is in {where}, but not in {file} (or not built yet).")
            elif word not in here:
                found.append(f"{word!r} is in {file}, but not in {where}.")
            elif here[word] != there[word]:
                found.append(f"{word!r} has code {here[word]} in {where}, but {there[word]} in {file}.")
    return found


def test_both_sides_hold_the_same_codes():
    ours = {one.__name__: {code.word: int(code) for code in one} for one in registry.ENUMERATIONS}
    assert set(ours) == set(LISTS) == set(_C.enumerations())
    assert not (found := differences_of_codes(ours, _C.enumerations())), "\n" + "\n".join(found)


def test_a_difference_of_codes_is_told_in_a_sentence():
    ours = {"Side": {"tail": 0, "head": 1}, "Update": {"sgd": 0, "adam": 1}}
    sentences = differences_of_codes(ours, {"Side": {"tail": 0}, "Update": {"sgd": 1, "adam": 1, "new": 2}})
    assert sentences[0].startswith("'head' is in Side in kgfast/registry.py, but not in KGFAST_SIDES in csrc")
    assert sentences[1].startswith("'new' is in KGFAST_UPDATES in csrc/include/kgfast/updates.h, but not in Update in")
    assert sentences[2].startswith("'sgd' has code 0 in Update in") and "but 1 in KGFAST_UPDATES" in sentences[2]
    assert len(sentences) == 3


def test_both_lists_hold_the_same_scores():
    own = {name: score for name, score in reference.SCORES.items() if score.operator is not None}  # none registered
    specified = {name: score.similarity for name, score in own.items()}
    compiled = {name: SIMILARITIES[code] for name, _, code in _C.scores()}
    assert not (found := differences(specified, compiled)), "\n" + "\n".join(found)


def test_a_difference_is_told_in_a_sentence():
    sentences = differences({"a": "dot", "b": "dot", "c": "l1"}, {"a": "dot", "c": "l2", "d": "dot"})
    assert len(sentences) == 3
    assert sentences[0].startswith("'b' is in kgfast/reference/scores.py, but not in KGFAST_SCORES")
    assert sentences[1].startswith("'c' has similarity 'l1'") and "'l2'" in sentences[1]
    assert sentences[2].startswith("'d' is in KGFAST_SCORES")


def test_every_score_has_a_name_and_shape_that_fit():
    for name, score in reference.SCORES.items():
        assert score.name == name and score.similarity in reference.SIMILARITIES
        assert score.relation_width(4) >= 1
