"""A fault of an input is said once, at that input.

ComfyUI says what a node's `VALIDATE_INPUTS` returns at each of the inputs that it was given, in the answer to
the page and in the log; no return value says which one is meant. Ours returns a line for each input that is
wrong, with the input's name, and `execution.validate_inputs`, which makes ComfyUI's words of it, is wrapped.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any

from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

_AS_COMFYUI_SAYS_IT = "what is wrong with an input is said at others, too"


def say_faults_once(modules: Mapping[str, ModuleType], nodes: Collection[str]) -> None:
    """From now on what is wrong with inputs of these nodes is said at those inputs alone.

    `modules` are those of a running ComfyUI. One whose function is another is left as it is.
    """
    execution: Any = modules.get("execution")
    validate = getattr(execution, "validate_inputs", None)
    if validate is None:
        return
    signature, guard = inspect.signature(validate), Guard(logger)
    if not signature.parameters.keys() >= {"item", "prompt", "validated"}:
        return

    def sifting(arguments: Any) -> Callable[[Any], Any]:
        """What makes of this call's result what is said; one that ComfyUI remembers was sifted before."""
        item, prompt, validated = (arguments[name] for name in ("item", "prompt", "validated"))
        if item in validated or prompt[item]["class_type"] not in nodes:
            return lambda result: result

        def sift(result: Any) -> Any:
            with guard(_AS_COMFYUI_SAYS_IT):
                errors = result[1]
                own = [said for error in errors if (said := _at_its_input(error)) is not None]
                errors[:] = own or errors  # what is refused is never refused without a word
            return result

        return sift

    if inspect.iscoroutinefunction(validate):

        @functools.wraps(validate)
        async def validate_inputs(*args: Any, **kwargs: Any) -> Any:
            sift = sifting(signature.bind(*args, **kwargs).arguments)
            return sift(await validate(*args, **kwargs))
    else:

        @functools.wraps(validate)
        def validate_inputs(*args: Any, **kwargs: Any) -> Any:
            sift = sifting(signature.bind(*args, **kwargs).arguments)
            return sift(validate(*args, **kwargs))

    execution.validate_inputs = validate_inputs


def _at_its_input(error: dict[str, Any]) -> dict[str, Any] | None:
    """The error with what is wrong with its own input; None where it is of another's."""
    if error["type"] != "custom_validation_failed":
        return error
    name = error["extra_info"]["input_name"]
    said = error["details"].removeprefix(f"{name} - ").splitlines()
    own = [line.removeprefix(f"{name}: ") for line in said if line.startswith(f"{name}: ")]
    return {**error, "details": f"{name} - {own[0]}"} if own else None
