"""The adapter for ComfyUI: the panel on its server, Unload Models, the nodes.

Importing it does nothing to ComfyUI and needs none; `attach` does the work. Neither jax nor torch is imported
before a node is executed.
"""

from crystools_tpu.comfyui.attach import WEB_DIRECTORY, attach
from crystools_tpu.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY", "attach"]
