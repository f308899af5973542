"""The task table names classes that exist."""

import pytest

import minidistil
from minidistil.checkpoint.tasks import TASKS
from minidistil.pipelines import pipeline_class
from minidistil.pipelines.base import Pipeline
from support.places import ROOT


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_a_model_a_pipeline_and_a_shipped_default_if_any(task):
    assert isinstance(getattr(minidistil, TASKS[task].model_class), type)
    assert issubclass(pipeline_class(task), Pipeline)
    default = TASKS[task].default_model
    assert default is None or (ROOT / "weights" / default).is_dir()
