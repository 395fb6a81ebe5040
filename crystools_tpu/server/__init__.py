"""The web server: page, JSON API, websocket; standalone, or mounted in another aiohttp application."""

from crystools_tpu.server.app import PREFIX, Profiling, Served, create_app, mount
from crystools_tpu.server.run import Server, ServerError

__all__ = ["PREFIX", "Profiling", "Served", "Server", "ServerError", "create_app", "mount"]
