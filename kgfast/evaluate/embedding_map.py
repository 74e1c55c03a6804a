"""Entity vectors in two dimensions, for the report."""

import importlib.util
import re

import numpy as np
import torch

from kgfast.pages import plots
from kgfast.pages.blocks import Chart, Note

MOST_POINTS = 1500
FEWEST_POINTS = 100  # that have neighbourhoods; of fewer, axes show more
PERPLEXITY = 30
ITERATIONS = 250, 250  # with neighbours pulled together, then without
EVERY = 25  # iterations between two signs of progress
MOST_GROUPS = 9
MOST_RELATIONS = 50
FEWEST = {True: 0.05, False: 0.33}  # share of entities that a relation sorts, named like a type or not
TYPE_WORDS = {"continent", "type", "class", "category", "kind", "genre", "instance"}


def embedding_map(model, graph, progress=None):
    """Blocks of a page: the chart with its legend, and a line that says what it shows. Of many entities the most
    connected. `progress(done, total)` counts iterations."""
    degree = entity_degree(graph)
    chosen = torch.sort(degree, descending=True, stable=True).indices[:MOST_POINTS]
    if len(chosen) < 3:
        return [Note("Too few entities for a map.")]
    places, how = two_dimensions(model.entities.detach()[chosen.to(model.entities.device)].cpu(), progress)
    groups = entity_groups(graph)
    if groups is None:
        colours, names, palette, word = colours_by_degree(degree[chosen])
    else:
        relation, group, names = groups
        palette = [*plots.COLOURS[: len(names)]]
        if bool((group[chosen] < 0).any()):
            names, palette = [*names, "other"], [*palette, "#9aa0a8"]
        colours = [palette[which] for which in group[chosen].tolist()]  # -1 is the last: "other"
        word = f"Colour: {relation}, own or of most neighbours."
    top = float(degree.max().clamp(min=1))
    sizes = (2.6 + 4.4 * (degree[chosen] / top).sqrt()).tolist()
    points = [
        (x, y, str(graph.label(entity)), colour, size)
        for (x, y), entity, colour, size in zip(places.tolist(), chosen.tolist(), colours, sizes, strict=True)
    ]
    which = (
        f"The {len(chosen):,} most connected of {graph.num_entities:,} entities"
        if len(chosen) < graph.num_entities
        else f"All {graph.num_entities:,} entities"
    )
    chart = plots.scatter(points, label="Map of entity vectors")
    legend = list(zip(names, palette, strict=True))
    return [Chart(chart, legend=legend), Note(f"{which} {how} {word}")]


def two_dimensions(rows, progress=None):
    """(places [N, 2] of rows [N, D], how they were found, in words): by t-SNE where openTSNE is installed and there are
    rows enough for neighbourhoods, else by principal axes."""
    small = len(rows) < FEWEST_POINTS
    if small or not has_tsne():
        places, share = principal_axes(rows)
        why = f"fewer than {FEWEST_POINTS}" if small else 'neighbourhoods need pip install "kgfast[report]"'
        return places, f"on the first two principal axes of their vectors ({share:.0%} of the variance; {why})."
    near = f"{PERPLEXITY} neighbours, {sum(ITERATIONS)} iterations"
    return neighbourhoods(rows, progress), f"by t-SNE (openTSNE, {near}): what lies together has similar vectors."


def has_tsne():
    return importlib.util.find_spec("openTSNE") is not None


def neighbourhoods(rows, progress=None):
    """t-SNE of rows [N, D]: [N, 2], the same for the same rows."""
    import openTSNE

    done = 0

    def step(iteration, error, embedding):
        nonlocal done
        done += EVERY
        if progress is not None:
            progress(done, sum(ITERATIONS))

    early, late = ITERATIONS
    found = openTSNE.TSNE(
        perplexity=PERPLEXITY, early_exaggeration_iter=early, n_iter=late, initialization="pca", neighbors="exact",
        negative_gradient_method="bh", n_jobs=1, random_state=0, callbacks=step, callbacks_every_iters=EVERY,
    ).fit(rows.double().numpy())  # fmt: skip
    return torch.from_numpy(np.asarray(found, dtype=np.float64))


def entity_degree(graph):
    """Training triples per entity, float64 [C]."""
    return torch.bincount(graph.train[:, [0, 2]].flatten().cpu(), minlength=graph.num_entities).double()


def principal_axes(rows):
    """(rows [N, D] on their first two principal axes [N, 2], the share of the variance there), in float64."""
    centred = rows.double() - rows.double().mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    if len(values) < 2:
        return torch.cat([left * values, torch.zeros_like(left)], dim=1)[:, :2], 1.0
    places = left[:, :2] * values[:2]
    flip = torch.sign(places[places.abs().argmax(0), torch.arange(2)])  # axes have no sign of their own
    return places * flip, float(values[:2].square().sum() / values.square().sum().clamp(min=1e-300))


def entity_groups(graph):
    """(relation name, group of each entity or -1 [C], group names) of a relation that sorts them, or None.

    Of the most frequent relations, one that gives its heads one tail each and has few tails; one named like a
    type goes first, then the one that reaches most entities. Entities it doesn't reach take the group of most
    of their neighbours.
    """
    train = graph.train.cpu()
    best = None
    frequent = torch.bincount(train[:, 1], minlength=graph.num_relations).sort(descending=True, stable=True)
    for relation in frequent.indices[:MOST_RELATIONS].tolist():
        pairs = train[train[:, 1] == relation]
        heads = pairs[:, 0].unique()
        values, sizes = pairs[:, 2].unique(return_counts=True)
        if len(values) < 2 or len(values) * 4 > len(heads) or len(pairs) > 1.1 * len(heads):
            continue
        largest = sizes.sort(descending=True, stable=True).indices[:MOST_GROUPS]
        reached = int(sizes[largest].sum())
        name = str(graph.relation_names[relation])
        typed = is_type_name(name)
        if reached < FEWEST[typed] * graph.num_entities:
            continue
        if best is None or (typed, reached) > best[0]:
            best = (typed, reached), name, pairs, values[largest]
    if best is None:
        return None
    _, name, pairs, values = best
    group = torch.full((graph.num_entities,), -1, dtype=torch.int64)
    for index, value in enumerate(values.tolist()):
        group[pairs[pairs[:, 2] == value, 0]] = index
        group[value] = index  # a group's own entity belongs to it
    return (
        name,
        with_neighbours(group, train, len(values)),
        [str(graph.label(value)) for value in values.tolist()],
    )


def is_type_name(name):
    """Whether the last part of a relation's name says type and nothing else: continent, has_type."""
    last = re.split(r"[/#:.]", name)[-1]
    words = {word.lower() for word in re.findall("[A-Z]?[a-z]+", last)} - {"has", "is", "of", "a"}
    return bool(words) and words <= TYPE_WORDS


def with_neighbours(group, train, count):
    """`group` with each -1 replaced by the most frequent group of the neighbours, where they have one."""
    ends = torch.cat([train[:, [0, 2]], train[:, [2, 0]]])
    ends = ends[group[ends[:, 1]] >= 0]
    votes = torch.bincount(ends[:, 0] * count + group[ends[:, 1]], minlength=len(group) * count).view(-1, count)
    most, winner = votes.max(1)
    return torch.where((group < 0) & (most > 0), winner, group)


def colours_by_degree(degree):
    """Five steps of one hue, by quantiles of the number of triples."""
    palette = ["#a9c4e4", "#7ea6d3", "#5588c0", "#336aa5", "#1d4a7d"]
    bounds = torch.quantile(degree, torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64))
    colours = [palette[step] for step in torch.bucketize(degree, bounds).tolist()]
    names = ["fewest triples", "", "", "", "most triples"]
    return colours, names, palette, "Colour: number of training triples."
