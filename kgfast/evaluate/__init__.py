"""What a trained model is worth and what it says: metrics, predictions, exports and the report."""

from kgfast.evaluate.export import export
from kgfast.evaluate.given import evaluate_ogb
from kgfast.evaluate.metrics import evaluate
from kgfast.evaluate.predict import predict
from kgfast.evaluate.report import write_report

__all__ = ["evaluate", "evaluate_ogb", "export", "predict", "write_report"]
