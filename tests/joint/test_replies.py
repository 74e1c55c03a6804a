"""What paths lead to, and replies to questions that may mean several of them."""

import pytest
import torch

from kgfast import KnowledgeGraph
from kgfast.joint.tasks.qa.answering import Reading
from kgfast.joint.tasks.qa.paths import Facts, Path, likely_paths
from kgfast.joint.tasks.qa.replies import EMPTY, Sense, confirmed, counted, listed

A, B, C, D, E = range(5)
BORDERS, SPEAKS = 0, 1
BACK = 2  # the number of relations: r + BACK is r against its direction


@pytest.fixture(scope="module")
def facts():
    """a - b - c border one another, d has no neighbour; a and b speak e, c is told in test alone."""
    train = [[A, BORDERS, B], [B, BORDERS, A], [B, BORDERS, C], [C, BORDERS, B], [A, SPEAKS, E], [B, SPEAKS, E]]
    graph = KnowledgeGraph.from_arrays(train, test=[[C, SPEAKS, E]], entity_names=list("abcde"))
    assert graph.num_relations == BACK
    return Facts.of(graph)


def sense(facts, topic, *paths, sure=1.0):
    """A question about a topic that means each of the paths, relations and their probability, so likely."""
    read = []
    for relations, probability in sorted(paths, key=lambda one: -one[1]):
        ends = {topic}
        for relation in relations:
            ends = facts.after(ends, relation)
        if ends:
            read.append(Path(relations, probability, frozenset(ends)))
    return Sense(topic, read, sure)


def reading(hops, *attention):
    """One question that reads these shares of the relations in each step."""
    return Reading(torch.tensor(attention)[:, :, None], torch.tensor(hops)[:, None], torch.empty(1, 0), torch.empty(0))


def test_where_paths_lead(facts):
    assert facts.after({A}, BORDERS) == {B} and facts.after({E}, SPEAKS + BACK) == {A, B, C}
    assert facts.after({A, C}, BORDERS) == {B} and facts.after({D}, BORDERS) == facts.after({E}, SPEAKS) == frozenset()
    assert facts.may_end(E, (SPEAKS,)) and not facts.may_end(A, (SPEAKS,))
    assert facts.way(A, (BORDERS, BORDERS), C) == [(A, BORDERS, B), (B, BORDERS, C)]
    assert facts.way(E, (SPEAKS + BACK, BORDERS), C) == [(B, SPEAKS, E), (B, BORDERS, C)]
    assert facts.way(A, (BORDERS,), C) == []


def test_likely_paths_multiply_what_each_step_reads(facts):
    read = reading([0.1, 0.6, 0.3], [0.7, 0.1, 0.1, 0.1], [0.2, 0.6, 0.1, 0.1])
    found = {path.relations: path for path in likely_paths(facts, A, read, 0)}
    assert found[(BORDERS,)].probability == pytest.approx(0.6 * 0.7) and found[(BORDERS,)].ends == {B}
    assert found[BORDERS, SPEAKS].probability == pytest.approx(0.3 * 0.7 * 0.6)
    assert found[BORDERS, BORDERS].ends == {C}  # a itself is no answer
    assert (SPEAKS + BACK,) not in found  # nobody speaks a
    chances = [path.probability for path in likely_paths(facts, A, read, 0)]
    assert chances == sorted(chances, reverse=True) and sum(chances) < 1


def test_what_leads_nowhere_leaves_the_rest_as_likely_as_it_was(facts):
    read = reading([0.0, 1.0], [0.9, 0.0, 0.0, 0.1])
    assert [(path.relations, path.probability) for path in likely_paths(facts, E, read, 0)] == [
        ((SPEAKS + BACK,), pytest.approx(0.1))
    ]
    assert Sense.of(facts, E, read, 0).mass == pytest.approx(0.1)
    assert Sense.of(facts, D, read, 0).answers() == {}


def test_lists(facts):
    reply = listed(facts, [sense(facts, A, ((BORDERS,), 0.75), ((SPEAKS,), 0.25), sure=0.9)])
    assert reply.value is None and reply.answers == {B: pytest.approx(0.9 * 0.75)}  # e is less than half as likely
    assert reply.ways == {B: [(A, BORDERS, B)]}
    both = listed(facts, [sense(facts, A, ((BORDERS,), 1.0)), sense(facts, C, ((BORDERS,), 1.0))])
    assert set(both.answers) == {B} and both.ways[B] == [(A, BORDERS, B), (C, BORDERS, B)]
    assert not listed(facts, [sense(facts, A, ((BORDERS,), 1.0)), sense(facts, B, ((SPEAKS,), 1.0))]).answers


def test_what_leads_nowhere_counts_little(facts):
    reply = listed(facts, [sense(facts, D, ((BORDERS,), 0.9), ((SPEAKS,), 0.1))])
    assert not reply.answers and reply.chance == 0
    reply = listed(facts, [sense(facts, E, ((BORDERS,), 0.9), ((SPEAKS + BACK,), 0.1))])
    assert set(reply.answers) == {A, B, C} and reply.chance == pytest.approx(0.1 / (0.1 + 0.9 * EMPTY))


def test_counts(facts):
    reply = counted(facts, [sense(facts, E, ((SPEAKS + BACK,), 0.8))])
    assert (reply.value, set(reply.answers)) == (3, {A, B, C}) and reply.chance == pytest.approx(
        0.8 / (0.8 + 0.2 * EMPTY)
    )
    both = counted(facts, [sense(facts, E, ((SPEAKS + BACK,), 1.0)), sense(facts, A, ((BORDERS,), 1.0))])
    assert both.value == 1 and set(both.answers) == {B}
    nothing = counted(facts, [sense(facts, D, ((BORDERS,), 0.9))])
    assert (nothing.value, nothing.answers) == (0, {}) and nothing.chance == pytest.approx(1)


def test_yes_and_no(facts):
    yes = confirmed(facts, [(sense(facts, A, ((BORDERS,), 1.0)), {B}), (sense(facts, B, ((BORDERS,), 1.0)), {A})])
    assert yes.value == "yes" and yes.chance == pytest.approx(1) and len(yes.answers) == 1
    no = confirmed(facts, [(sense(facts, A, ((BORDERS,), 0.9), ((SPEAKS,), 0.1)), {C})])
    assert no.value == "no" and set(no.answers) == {B}  # what is so instead
    unlikely = confirmed(facts, [(sense(facts, A, ((SPEAKS,), 0.9), ((BORDERS,), 0.1)), {B})])
    assert unlikely.value == "yes"  # b is no language, whatever the question seems to say
    assert unlikely.chance == pytest.approx(0.1 / (0.1 + 0.9 * EMPTY))
    anywhere = confirmed(facts, [(sense(facts, A, ((BORDERS,), 0.9)), set())])
    assert anywhere.value == "yes" and set(anywhere.answers) == {B}
    nowhere = confirmed(facts, [(sense(facts, D, ((BORDERS,), 0.9), ((SPEAKS,), 0.1)), set())])
    assert (nowhere.value, nowhere.answers) == ("no", {})
