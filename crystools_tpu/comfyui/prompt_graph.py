"""What a prompt's graph tells of its run: its nodes, which of them are needed, its fingerprint."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from crystools_tpu.telemetry import Node, NodeFacts

_CONTENT_NAMES: Final = {"seed", "noise_seed", "text", "prompt", "negative_prompt", "filename_prefix"}
_CONTENT_OPTIONS: Final = {
    "multiline",
    "control_after_generate",
    "image_upload",
    "video_upload",
    "audio_upload",
}
"""Options of inputs whose values say what is shown: long texts, seeds, the user's own files."""


class PromptGraph:
    """A prompt as ComfyUI has it while it executes it.

    `dynamic` is its `DynamicPrompt`, which grows as nodes expand into others. `classes` are those of all
    nodes by their names, and `titles` what the page calls a node without a title of its own.
    """

    def __init__(self, dynamic: Any, classes: Mapping[str, Any], titles: Mapping[str, str]) -> None:
        self._dynamic = dynamic
        self._classes = classes
        self._titles = titles
        self._prompt: Mapping[str, Mapping[str, Any]] = dynamic.original_prompt

    @property
    def node_ids(self) -> Collection[str]:
        """All that the prompt has, needed or not."""
        return self._prompt.keys()

    def class_of(self, node_id: str) -> Any:
        """The node's class; None for one that is not installed."""
        return self._classes.get(self._prompt[node_id]["class_type"])

    def inputs(self, node_id: str) -> Mapping[str, Any]:
        """The node's inputs: values, and links to other nodes."""
        return self._prompt[node_id]["inputs"]  # type: ignore[no-any-return]

    def describe(self, node_id: str) -> NodeFacts:
        """The facts of a node, be it one that another has expanded into."""
        node = self.node(node_id)
        class_ = self._classes.get(node.class_type)
        return NodeFacts(
            node=node,
            parent=self._dynamic.get_parent_node_id(node_id),
            overlaps=class_ is not None and _is_async(class_),
        )

    def node(self, node_id: str) -> Node:
        """The node as the page knows it."""
        node = self._dynamic.get_node(node_id)
        class_type = node["class_type"]
        title = node.get("_meta", {}).get("title")
        is_own = title and title not in (class_type, self._titles.get(class_type))
        return Node(id=node_id, class_type=class_type, title=title if is_own else None)

    def needed_for(self, outputs: Iterable[str], cached: Collection[str] = ()) -> dict[str, None]:
        """The nodes that these outputs are made of, and none that is needed for a `cached` one alone."""
        needed = dict.fromkeys(outputs)
        waiting = list(needed)
        while waiting:
            node_id = waiting.pop()
            if node_id not in cached:
                sources = _sources(self._prompt[node_id]["inputs"])
                new = [source for source in sources if source not in needed]
                needed.update(dict.fromkeys(new))
                waiting += new
        return needed

    def fingerprint(self, node_ids: Iterable[str]) -> str:
        """12 digits that are the same where these nodes differ in content alone.

        That is in seeds, texts and the user's own files.
        """
        graph = []
        for node_id in sorted(node_ids):
            node = self._prompt[node_id]
            class_type, inputs = node["class_type"], node["inputs"]
            content = _content_inputs(self._classes.get(class_type))
            graph.append((node_id, class_type, {name: inputs[name] for name in inputs.keys() - content}))
        text = json.dumps(graph, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _sources(inputs: Mapping[str, Any]) -> list[str]:
    """The nodes that are linked to a node's inputs."""
    links = [value for value in inputs.values() if type(value) is list and len(value) == 2]
    return [source for source, _ in links if type(source) is str]


@functools.cache
def _content_inputs(class_: Any) -> frozenset[str]:
    """The inputs of a class of nodes that say what is shown and change no time; ours may name some."""
    types = class_.INPUT_TYPES() if class_ is not None else {}
    declared = {**types.get("required", {}), **types.get("optional", {})}
    found = {name for name, declaration in declared.items() if _CONTENT_OPTIONS & _options_on(declaration)}
    return frozenset(_CONTENT_NAMES.union(found, getattr(class_, "TIMELESS_INPUTS", ())))


def _options_on(declaration: Any) -> set[str]:
    """The options of an input that are on; `declaration` is what its class says of it."""
    options = declaration[1] if isinstance(declaration, tuple | list) and len(declaration) > 1 else None
    return {name for name, value in options.items() if value} if isinstance(options, dict) else set()


@functools.cache
def _is_async(class_: Any) -> bool:
    """Whether others are executed while a node of this class is."""
    return inspect.iscoroutinefunction(getattr(class_, class_.FUNCTION, None))
