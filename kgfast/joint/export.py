"""A joint run as a folder of transformers: its Transformer with the LM head, tokenizer, tables, and a model card."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kgfast.data.sources import as_path
from kgfast.errors import CheckpointError, KgfastError
from kgfast.evaluate.export import export as export_tables
from kgfast.evaluate.report import read_metrics
from kgfast.joint.config import JointConfig
from kgfast.joint.model.adapt import merge_lora
from kgfast.joint.model.backbone import quiet
from kgfast.joint.model.joint_model import JointModel
from kgfast.joint.model.lm_head import Head, put_together
from kgfast.joint.model.sharing import RoutedSharing
from kgfast.joint.needs import needs
from kgfast.joint.tasks.link import link_model
from kgfast.joint.text.language import LanguageTask
from kgfast.joint.text.store import all_texts, graph_texts

SAMPLE = 64  # texts whose tokens are compared
UNTOLD = {"out", "data", "resume", "device", "threads", "tensorboard", "trackers", "columns", "header"}  # on the card


def export_folder(model: JointModel, config: JointConfig, run: Path, folder: Path) -> list[Path]:
    """Write what `AutoModelForCausalLM` or `AutoModelForMaskedLM` and `AutoTokenizer` read: the Transformer in float32
    with its LM head, adapters merged; beside it the tables as `kgfast export --format safetensors` writes them, and
    README.md. Returns the paths.

    Of soft sharing the Transformer of the language task is taken. Files are made aside, then renamed, one by one.
    KgfastError where there is no Transformer, or none that transformers has a class for.
    """
    if model.backbone is None:
        raise KgfastError(f"{run} has no Transformer to export: no task reads texts; use npy, safetensors or word2vec")
    if isinstance(model.backbone, RoutedSharing):
        raise KgfastError(f"{run}: sharing.mode=routed: transformers has no class for its layers of experts")
    task = next((name for name, one in model.tasks.items() if isinstance(one, LanguageTask)), model.backbone.names[0])
    folder = as_path("out", folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
        made = Path(aside)
        export_tables(link_model(model, model.graph), model.graph, made, "safetensors")
        save_tokenizer(model, config, made)
        whole = assemble(model, task)
        with quiet(needs("transformers")):
            whole.save_pretrained(made)
        card = model_card(model, config, task, whole, read_metrics(run) if (run / "metrics.json").exists() else {})
        (made / "README.md").write_text(card, encoding="utf-8")
        written = []
        mask = os.umask(0)
        os.umask(mask)
        for path in sorted(made.iterdir()):
            os.chmod(path, 0o666 & ~mask)  # some versions of safetensors leave files that only their owner can read
            os.replace(path, folder / path.name)
            written.append(folder / path.name)
    return written


def assemble(model: JointModel, task: str) -> Any:
    """The transformers model of a task's Transformer and LM head. It takes the backbone's parts as they are."""
    assert model.backbone is not None
    backbone = model.backbone.backbone_of(task)
    merge_lora(backbone.model)
    backbone.bf16 = False
    backbone.float().eval()
    backbone.choose_packing("padded")  # the attention that transformers has itself
    backbone.model.config.use_cache = True
    whole = put_together(backbone.model, Head(backbone.lm_head, backbone.untied_table, backbone.lm_bias))
    if backbone.causal and whole.generation_config is not None:
        tokenizer: Any = model.tokenizer
        whole.generation_config.eos_token_id = tokenizer.end if tokenizer.end is not None else tokenizer.begin
        whole.generation_config.bos_token_id = tokenizer.begin if tokenizer.begin is not None else tokenizer.end
        whole.generation_config.pad_token_id = tokenizer.pad
    return whole


def save_tokenizer(model: JointModel, config: JointConfig, folder: Path) -> None:
    """The tokenizer that the run's texts were read with, as AutoTokenizer reads it; CheckpointError where that would
    give other tokens.

    A pretrained one stays as its folder has it, chat template and all. Of one that was trained here, each text is
    enclosed as in training.
    """
    transformers = needs("transformers")
    tokenizer: Any = model.tokenizer
    given = config.tokenizer.path or config.backbone.path
    if given is not None and (Path(given) / "tokenizer_config.json").is_file():
        made = transformers.AutoTokenizer.from_pretrained(given, local_files_only=True, trust_remote_code=False)
    else:
        roles = tokenizer.roles
        names = {"pad_token": "pad", "unk_token": "unknown", "mask_token": "mask", "cls_token": "begin",
                 "sep_token": "end", "bos_token": "begin", "eos_token": "end"}  # fmt: skip
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=enclosing(tokenizer), model_max_length=config.backbone.max_length,
            **{key: roles[role] for key, role in names.items() if roles[role] is not None},
        )  # fmt: skip
    made.save_pretrained(folder)
    again = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    lines = [text for text, _ in zip(all_texts(graph_texts(model.graph)), range(SAMPLE), strict=False)]
    tokens, offsets = tokenizer.encode(lines)
    for place, line in enumerate(lines):
        wanted = tokens[int(offsets[place]) : int(offsets[place + 1])].tolist()
        if again(line, add_special_tokens=False)["input_ids"] != wanted:
            raise CheckpointError(f"{folder}: AutoTokenizer reads the text {line!r} in other tokens than the run did")


def enclosing(tokenizer: Any) -> Any:
    """A copy of a `tokenizers.Tokenizer` that encloses texts as training did."""
    library = needs("tokenizers")
    made = library.Tokenizer.from_str(tokenizer.tokenizer.to_str())
    names = [tokenizer.roles[role] for role in ("begin", "end")]
    first, last = (f"{name} " if name is not None else "" for name in names)
    single = f"{first}$A {last}".strip()
    marks = sorted({(name, made.token_to_id(name)) for name in names if name is not None})
    made.post_processor = library.processors.TemplateProcessing(
        single=single, pair=f"{single} $B:1 {last.strip() and last.strip() + ':1'}".strip(), special_tokens=marks
    )
    return made


def model_card(model: JointModel, config: JointConfig, task: str, whole: Any, metrics: Mapping[str, Any]) -> str:
    """README.md: what the folder is, how it is read, what the run measured."""
    causal = model.backbone is not None and model.backbone.backbone_of(task).causal
    family = "AutoModelForCausalLM" if causal else "AutoModelForMaskedLM"
    graph = model.graph
    tags = ["kgfast", "knowledge-graph", *(["lora"] if config.backbone.lora is not None else [])]
    lines = [
        "---", "library_name: transformers", f"pipeline_tag: {'text-generation' if causal else 'fill-mask'}",
        "tags:", *(f"- {tag}" for tag in tags), "---", "", f"# {Path(graph.name).name}: {', '.join(config.tasks)}", "",
        f"A {type(whole).__name__} trained with kgfast on the tasks {', '.join(config.tasks)}; its language is that of "
        f"the task {task}.", "",
        "```python", f"from transformers import AutoTokenizer, {family}", "",
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)", f"model = {family}.from_pretrained(FOLDER)", "```", "",
        f"`embeddings.safetensors` holds the rows of {graph.num_entities:,} entities and {graph.num_relations:,} "
        f"relations (score {model.score}, {model.dim} numbers an entity); names stand in `entities.txt` and "
        "`relations.txt`, a line a row, and `model.json` says how they are read.", "",
    ]  # fmt: skip
    rows = [
        f"| {name} | {split} | {metric} | {value:.4g} |"
        for name, splits in metrics.get("tasks", {}).items()
        for split, found in splits.items()
        for metric, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    if rows:
        lines += ["## Measured", "", "| task | split | metric | value |", "|---|---|---|---|", *rows, ""]
    started = "from scratch" if config.backbone.path is None else f"from `{Path(config.backbone.path).name}`"
    lines += ["## Training", "", f"The Transformer began {started}. Settings:", "", "```json"]
    told = config.model_dump(exclude=UNTOLD)
    told["backbone"]["path"] = config.backbone.path and Path(config.backbone.path).name
    told["tokenizer"]["path"] = config.tokenizer.path and Path(config.tokenizer.path).name
    told["corpus"]["files"] = [Path(file).name for file in config.corpus.files]
    return "\n".join([*lines, json.dumps(told, indent=1, ensure_ascii=False), "```", ""])
