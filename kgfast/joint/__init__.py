"""Joint training: one Transformer learns language, the graph and question answering together.

A step has several tasks. Each turns its batch into terms (query, table, targets), and one `kgfast.multitask_loss` takes
them all: `L = sum_i w_i L_i`. A task is one file in `kgfast/joint/tasks/`.

    tasks/       what a task is, and each of them
    packed.py    texts side by side without padding      texts.py, tokens.py, corpus.py    where they come from
    backbone.py  the Transformer                         sharing.py    one for all tasks, one each, or routed experts
    encoders.py  entities as rows of a table, as texts, or both; unseen.py: those of another graph, by their texts

Needs `pip install "kgfast[joint]"`.
"""
