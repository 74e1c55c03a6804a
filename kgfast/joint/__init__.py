"""Joint training: one Transformer learns language, the graph and question answering together.

A step has several tasks. Each turns its batch into terms (query, table, targets), and one `kgfast.multitask_loss` takes
them all: `L = sum_i w_i L_i`. A task is one file in `kgfast/joint/tasks/`.

    task.py, tasks/  what a task is, and each of them    balance/   weights of their losses, shares of the steps
    model/           the Transformer, rows of entities   text/      where texts come from: tokens, corpus
    sections.py, config.py, build.py, step.py, loop.py, checkpoint.py, evaluate.py, report.py    a run
    ask.py, unseen.py, ablate.py                         what is done with one

Needs `pip install "kgfast[joint]"`.
"""
