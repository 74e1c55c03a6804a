"""Question answering over the graph: the task, the reader of questions, and the walk along edges."""

from kgfast.joint.tasks.qa.task import *  # noqa: F403
