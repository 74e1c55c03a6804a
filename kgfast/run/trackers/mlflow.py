"""MLflow. Its own environment variables count: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, .."""

from __future__ import annotations

from collections.abc import Mapping

import mlflow

from kgfast.run.trackers import Tracker, Watched

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
TAG = "kgfast_id"  # by which a run that goes on is found


class MLflow(Tracker):
    def __init__(self, watched: Watched) -> None:
        query = dict(filter_string=f"tags.{TAG} = '{watched.id}'", output_format="list", max_results=1)
        earlier = mlflow.search_runs(**query) if watched.step else []
        if earlier:
            mlflow.start_run(run_id=earlier[0].info.run_id)
        else:
            mlflow.start_run(run_name=watched.folder.name, tags={TAG: watched.id})
            mlflow.log_params(dict(watched.settings))

    def log(self, numbers: Mapping[str, float], step: int, epoch: float) -> None:
        mlflow.log_metrics({**numbers, "epoch": epoch}, step=step)

    def close(self, ended: str) -> None:
        mlflow.end_run(STATUS[ended])


open_tracker = MLflow
