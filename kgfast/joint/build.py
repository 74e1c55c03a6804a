"""From a configuration and a graph to the parts of a joint run: texts, model, weights, optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kgfast.data import KnowledgeGraph
from kgfast.data.lines import read_lines
from kgfast.data.resolve import folder_of
from kgfast.errors import CheckpointError, ConfigError, DataError
from kgfast.joint.balance.weights import FixedWeights, make_weights
from kgfast.joint.config import JointConfig
from kgfast.joint.model import adapt
from kgfast.joint.model.backbone import Backbone, Shape
from kgfast.joint.model.encoders import EntityEncoder
from kgfast.joint.model.joint_model import JointModel
from kgfast.joint.model.relations import RelationTexts
from kgfast.joint.model.sharing import ENTITIES, RELATIONS, make_sharing
from kgfast.joint.room import check_model_room
from kgfast.joint.tasks import ModelDims, Task, task_class
from kgfast.joint.tasks.qa.questions import with_fewer_triples, with_questions
from kgfast.joint.text.corpus import Corpus
from kgfast.joint.text.language import LanguageTask
from kgfast.joint.text.store import TextStore, all_texts, graph_texts, has_texts
from kgfast.joint.text.tokenizer import SPECIALS, Tokenizer
from kgfast.nn import KGEModel
from kgfast.run.optimizers import TABLE_OPTIMIZERS, with_state
from kgfast.run.settings import check_device

WEIGHTS_RATE = 10  # learned weights of tasks move so many times faster than the Transformer: they are a handful
UNKNOWN_SHARE = 0.01  # of a group's tokens: more is told when training starts


def load_graph(config: JointConfig, data: str | None = None) -> KnowledgeGraph:
    """The graph of a run with the questions and the share of its triples that are configured; from `data`, where it
    lies elsewhere now."""
    graph = config.load_graph(data)
    if config.questions != "qa":
        graph = with_questions(graph, folder_of(data or config.data), config.questions)
    return graph if config.triples == 1 else with_fewer_triples(graph, config.triples)


def fit_to_data(config: JointConfig, graph: KnowledgeGraph, say: Callable[[str], None]) -> JointConfig:
    """With `leave_out`, the configuration without tasks and texts that the data has nothing for; each is said."""
    if not config.leave_out:
        return config
    missing = {name: task_class(name).lacks(graph, config) for name in config.tasks}
    for name, what in missing.items():
        if what is not None:
            say(f"{graph.name} has no {what}: the task {name} is left out")
    tasks = {name: given for name, given in config.tasks.items() if missing[name] is None}
    if not tasks:
        raise DataError(f"{graph.name} has nothing for any of the tasks {', '.join(config.tasks)}")
    if has_texts(graph) or config.entities.kind == "table":
        return config.replace(tasks=tasks, leave_out=False)
    say(f"{graph.name} has no texts of entities: they are rows of a table")
    for name, given in tasks.items():
        unused = task_class(name).unused_options("table")
        tasks[name] = {key: value for key, value in given.items() if key not in unused}
    return config.replace(tasks=tasks, leave_out=False, entities={"kind": "table"})


def build_tokenizer(config: JointConfig, graph: KnowledgeGraph, run: Path | None) -> Tokenizer | None:
    """The tokenizer of the run where it has one, else the one that is configured, else one trained on the texts that
    training may see; None where nothing reads texts."""
    if not reads_texts(config):
        return None
    if run is not None and (run / "tokenizer.json").exists():
        return Tokenizer.load(run, of_run=True)
    given = config.tokenizer
    path = given.path or config.backbone.path
    if path is not None:
        return Tokenizer.load(path)
    hidden = ("question/valid", "question/test")
    groups = {name: texts for name, texts in graph_texts(graph).items() if name not in hidden}
    texts = list(all_texts(groups))
    for file in config.corpus.files:
        if not Path(file).is_file():
            raise DataError(f"corpus.files: there is no file {file}")
        texts += read_lines(Path(file)).to_pylist()
    return Tokenizer.train(texts, kind=given.kind, vocabulary=given.vocabulary, lowercase=given.lowercase)


def fewest_tokens(config: JointConfig) -> int:
    """Tokens that a Transformer of the run's own knows at least; 0 where there is none."""
    return len(SPECIALS) if reads_texts(config) and config.backbone.path is None else 0


def reads_texts(config: JointConfig) -> bool:
    """Whether anything in the run needs a Transformer."""
    return bool(row_readers(config)) or any(task_class(name).backbone for name in config.tasks)


def row_readers(config: JointConfig) -> list[str]:
    """The names under which texts of rows are encoded."""
    kinds = {ENTITIES: config.entities.kind, RELATIONS: config.relations.kind}
    return [name for name, kind in kinds.items() if kind != "table"]


def build_texts(config: JointConfig, graph: KnowledgeGraph, tokenizer: Tokenizer | None) -> TextStore | None:
    """All texts, tokenized; with the corpus where a task reads it."""
    if tokenizer is None:
        return None
    texts = TextStore.of_graph(graph, tokenizer, config.backbone.max_length)
    if any(task_class(name).reads_corpus for name in config.tasks):
        corpus = config.corpus
        texts.corpus = Corpus.of_graph(
            graph, tokenizer, files=corpus.files, triples=corpus.triples, held_out=corpus.held_out, seed=config.seed,
            apart=any(getattr(config.options(name), "triples", 0) for name in config.tasks),
            mentions=any(task_class(name).reads_mentions for name in config.tasks),
        )  # fmt: skip
    return texts


def build_backbone(config: JointConfig, tokenizer: Tokenizer) -> Backbone:
    given = config.backbone
    if given.path is None:
        keys = ("kind", "hidden", "layers", "heads", "intermediate", "max_length", "dropout")
        shape = Shape(**{key: getattr(given, key) for key in keys})
        backbone = Backbone.from_shape(shape, tokenizer, seed=config.seed, packing=given.packing, pooling=given.pooling)
    else:
        backbone = Backbone.from_checkpoint(given.path, tokenizer, packing=given.packing, pooling=given.pooling)
        if given.max_length > backbone.max_length:
            raise ConfigError(
                f"backbone.max_length={given.max_length}: {given.path} reads {backbone.max_length} tokens at most"
            )
    if given.checkpoint_activations:
        backbone.checkpoint_activations()
    if given.lora is None:
        adapt.freeze(backbone, given.freeze)
    else:
        adapt.add_lora(backbone, **given.lora.model_dump())
    if given.dtype == "bfloat16":
        adapt.hold_in_bfloat16(backbone)
    return backbone


def build_model(
    config: JointConfig, graph: KnowledgeGraph, run: Path | None = None, tokenizer: Tokenizer | None = None
) -> JointModel:
    """The model with its initial weights, a function of the seed, on the configured device.

    Raises ConfigError, DataError or CheckpointError for what does not fit together: tasks without texts or questions,
    a tokenizer that the backbone's embeddings are too few for, a device that is not there, sizes beyond its memory.
    """
    check_device(config.device)
    check_model_room(config, graph, fewest_tokens(config), training=False)
    tokenizer = build_tokenizer(config, graph, run) if tokenizer is None else tokenizer
    texts = build_texts(config, graph, tokenizer)
    readers = [name for name in config.tasks if task_class(name).backbone] + row_readers(config)
    hidden, backbone, sharing = 0, None, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if readers and tokenizer is not None:
            backbone = build_backbone(config, tokenizer)
            hidden = backbone.hidden
            options = config.sharing.model_dump(exclude={"mode"}, exclude_none=True)
            sharing = make_sharing(config.sharing.mode, backbone, readers, **options)
        entities = EntityEncoder(
            config.entities.kind, graph, texts, score=config.model, dim=config.dim, hidden=hidden,
            refresh=config.entities.refresh, init_scale=config.init_scale, seed=config.seed,
        )  # fmt: skip
        seed = KGEModel(
            1, graph.num_relations, config.dim, score=config.model, reciprocal=config.reciprocal,
            init_scale=config.init_scale, seed=config.seed,
        )  # fmt: skip
        dims = ModelDims(
            hidden=hidden, dim=config.dim, score=config.model, relation_width=seed.relations.shape[1],
            num_entities=graph.num_entities, num_relations=graph.num_relations,
            vocabulary=0 if tokenizer is None else len(tokenizer), causal=bool(backbone and backbone.causal),
            embedding=0 if backbone is None else backbone.embedding, relation_rows=len(seed.relations),
            entities_read=entities.reads, frozen=bool(backbone and backbone.frozen),
        )  # fmt: skip
        tasks = {name: task_class(name)(config.options(name), graph, texts, dims, config.seed) for name in config.tasks}
        relations = nn.Parameter(seed.relations.detach().clone())
        relation_texts = None
        if config.relations.kind == "hybrid" and texts is not None:
            relation_texts = RelationTexts(
                graph, texts, relations, hidden=hidden, refresh=config.relations.refresh, seed=config.seed
            )
    check_learning(backbone, tasks)
    model = JointModel(
        graph, score=config.model, entities=entities, relations=relations, tasks=tasks, relation_texts=relation_texts,
        backbone=sharing, texts=texts, bf16=config.precision == "bf16",
    )  # fmt: skip
    return model.to(config.device)


def check_learning(backbone: Backbone | None, tasks: Mapping[str, Task]) -> None:
    """ConfigError for a language task that nothing can learn from: the Transformer and its LM head are frozen."""
    if backbone is None or not backbone.frozen or any(one.requires_grad for one in backbone.parameters()):
        return
    for name, task in tasks.items():
        if isinstance(task, LanguageTask):
            raise ConfigError(
                f"tasks.{name} has nothing to learn: backbone.freeze=true keeps the Transformer and its LM head; "
                f"leave the task out, freeze a number of layers, or use backbone.lora"
            )


def warnings(config: JointConfig, model: JointModel) -> list[str]:
    """What a user must know before he trusts the numbers of a run: texts that the tokenizer can't read, and a
    checkpoint without the LM head that a task trains."""
    lines = []
    readers = ", ".join(name for name, task in model.tasks.items() if isinstance(task, LanguageTask))
    shares = {} if model.texts is None else model.texts.unknown_shares()
    told = ", ".join(f"{share:.1%} of {name}" for name, share in shares.items() if share > UNKNOWN_SHARE)
    if told:
        uncounted = f"; perplexity of {readers} counts other tokens only" if readers else ""
        lines.append(
            f"warning: tokens are [UNK]: {told}; the tokenizer does not fit the language of these texts{uncounted}"
        )
    path = config.backbone.path
    if readers and path is not None and model.backbone is not None and not model.backbone.backbones[0].lm_head_found:
        lines.append(f"warning: {path} holds no LM head: that of {readers} begins anew")
    return lines


def build_weights(config: JointConfig) -> FixedWeights:
    chosen = config.weighting
    return make_weights(
        chosen.method, [config.options(name).weight for name in config.tasks], every=chosen.every,
        temperature=chosen.temperature, alpha=chosen.alpha, lr=chosen.lr,
    ).to(config.device)  # fmt: skip


def tables(model: JointModel) -> list[nn.Parameter]:
    """The parameters that are a row an entity or relation."""
    return [*([] if model.entities.kind == "text" else [model.entities.table]), model.relation_table]


def build_optimizers(config: JointConfig, model: JointModel, weights: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """AdamW over the Transformer and all heads, weights of tasks included; the tables' own optimizer.

    Weight decay is for matrices that are no tables, as usual. State exists from the start, so that it can be loaded.
    """
    own = tables(model)
    taken = {id(parameter) for parameter in own}
    dense = [parameter for parameter in model.parameters() if id(parameter) not in taken and parameter.requires_grad]
    learned = list(weights.parameters())
    optimizers: dict[str, torch.optim.Optimizer] = {}
    groups: list[dict[str, Any]] = []
    for part, rate in parts_by_rate(config, model, dense):
        matrices = [parameter for parameter in part if parameter.dim() > 1]
        others = [parameter for parameter in part if parameter.dim() <= 1]
        groups.append(dict(params=matrices, weight_decay=config.weight_decay, **rate))
        groups.append(dict(params=others, weight_decay=0.0, **rate))
    groups.append(dict(params=learned, weight_decay=0.0, times=WEIGHTS_RATE))
    groups = [group for group in groups if group["params"]]
    if groups:
        optimizers["dense"] = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    optimizers["tables"] = with_state(TABLE_OPTIMIZERS[config.table_optimizer](own, lr=config.table_lr))
    return optimizers


def parts_by_rate(
    config: JointConfig, model: JointModel, dense: list[nn.Parameter]
) -> list[tuple[list[nn.Parameter], dict[str, float]]]:
    """(parameters, what sets their rate apart): those of the Transformer last, where it has its own rate."""
    if config.backbone.lr is None:
        return [(dense, {})]
    of_backbone = set() if model.backbone is None else {id(parameter) for parameter in model.backbone.parameters()}
    own = [parameter for parameter in dense if id(parameter) in of_backbone]
    if not own:
        raise ConfigError(f"backbone.lr={config.backbone.lr} has no effect: no weight of a Transformer learns")
    others = [parameter for parameter in dense if id(parameter) not in of_backbone]
    return [(others, {}), (own, {"times": config.backbone.lr / config.lr})]


def check_tokenizer(
    tokenizer: Tokenizer | None, fingerprint: str | None, roles: dict[str, str | None] | None, where: str
) -> None:
    """CheckpointError unless this is the tokenizer that `where` was trained with, by its fingerprint and the roles of
    its special tokens (None in earlier checkpoints)."""
    if (tokenizer is None) != (fingerprint is None):
        raise CheckpointError(f"{where} was trained {'without' if fingerprint is None else 'with'} a tokenizer")
    if tokenizer is not None and fingerprint is not None:
        tokenizer.check_fits(fingerprint, where, roles)
