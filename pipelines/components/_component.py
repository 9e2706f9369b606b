"""Decorator of the steps: the image of the project, no installation at run time."""

from collections.abc import Callable, Sequence
from typing import Any

from kfp import dsl

from pipelines.settings import IMAGE


def component(
    function: Callable[..., Any] | None = None, *, task_config_passthroughs: Sequence[Any] | None = None
) -> Any:
    """Decorator of a kfp component whose image contains kfp and eoforge; usable with and without arguments."""

    def decorate(f: Callable[..., Any]) -> Any:
        return dsl.component(
            f,
            base_image=IMAGE,
            install_kfp_package=False,
            packages_to_install=[],
            task_config_passthroughs=list(task_config_passthroughs) if task_config_passthroughs else None,
        )

    return decorate(function) if function else decorate
