"""The two lists of scores, the specification's and the compiled one, must say the same."""

from kgfast import _C, reference

SIMILARITIES = tuple(reference.SIMILARITIES)  # the order of the compiled codes


def differences(specified, compiled):
    """A sentence for each score that isn't the same in {name: similarity} of both lists."""
    where = {"specified": "kgfast/reference/scores.py", "compiled": "KGFAST_SCORES in csrc/include/kgfast/core.h"}
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


def test_both_lists_hold_the_same_scores():
    specified = {name: score.similarity for name, score in reference.SCORES.items()}
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
