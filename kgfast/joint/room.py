"""The memory that a joint run takes at least, told before anything large is made."""

from __future__ import annotations

from kgfast.data import KnowledgeGraph
from kgfast.joint.config import JointConfig
from kgfast.joint.model.joint_model import JointModel
from kgfast.joint.model.sharing import Sharing
from kgfast.registry import RULES, find_score
from kgfast.run.memory import Need, check_memory, outsized

ITEM = 4  # bytes of a float32
LEARNED = 4  # a parameter, its gradient, and the two moments of AdamW


def check_model_room(config: JointConfig, graph: KnowledgeGraph, vocabulary: int, *, training: bool) -> None:
    """ConfigError where the parameters don't fit; vocabulary: tokens, 0 without a Transformer of the run's own."""
    relations = graph.num_relations * (2 if config.reciprocal else 1)
    rule = RULES.get(config.table_optimizer)
    states = 2 if rule is None else sum(not one_a_row for one_a_row in rule.states.values())
    rows = relations * find_score(config.model).relation_width(config.dim)
    rows += 0 if config.entities.kind == "text" else graph.num_entities * config.dim
    what = f"the tables of {graph.num_entities:,} entities and {relations:,} relations"
    needs = [Need(f"dim={config.dim}", what, rows * ITEM * (2 + states if training else 1))]
    if vocabulary:
        needs += backbone_needs(config, vocabulary, LEARNED if training else 1)
    if config.entities.kind != "table" and vocabulary:
        texts = ITEM * graph.num_entities * config.backbone.hidden
        needs.append(Need(f"backbone.hidden={config.backbone.hidden}", "the texts of all entities", texts))
    check_memory(needs, config.device)


def backbone_needs(config: JointConfig, vocabulary: int, copies: int) -> list[Need]:
    given, sharing = config.backbone, config.sharing
    hidden, inner = given.hidden, given.intermediate or 4 * given.hidden
    many = max(1, len(config.tasks) - 1) if sharing.mode == "soft" else 1  # one a task that reads texts
    experts = (sharing.experts or 1) if sharing.mode == "routed" else 1
    layer = 4 * hidden**2 + 2 * hidden * inner * experts
    wide = f"backbone.{outsized(given, 'hidden', 'layers', 'intermediate')}"
    wide = f"sharing.experts={experts}" if experts > max(hidden, inner) else wide
    scale = many * ITEM * copies
    return [
        Need(wide, "the layers of the Transformer", scale * given.layers * layer),
        Need(f"backbone.hidden={hidden}", f"the embeddings of {vocabulary:,} tokens", scale * vocabulary * hidden),
        Need(f"backbone.max_length={given.max_length}", "the positions of a text", scale * given.max_length * hidden),
    ]


def check_batch_room(config: JointConfig, model: JointModel) -> None:
    """ConfigError where the hidden states of a task's first batch don't fit, which every layer keeps for gradients."""
    sharing = model.backbone
    if not isinstance(sharing, Sharing):
        return
    for name, task in model.tasks.items():
        packed = task.requests(task.batch(0))
        if packed is None or not len(packed):
            continue
        tokens = len(packed.distinct()[0].tokens)
        backbone = sharing.backbone_of(name)
        size = ITEM * tokens * backbone.hidden * backbone.model.config.num_hidden_layers
        setting = f"tasks.{name}.batch_size={task.options.batch_size}"
        check_memory([Need(setting, f"the states of {tokens:,} tokens", size)], config.device)
