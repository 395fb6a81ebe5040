"""A page tells what it calls its workflow, and the prompt that it queues has the name."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from crystools_tpu.comfyui import attach
from crystools_tpu.comfyui.workflow_names import ADDRESS

from .conftest import StandIn

TOLD = {"client_id": "a page", "id": "an id", "name": "cats/at night"}


def queued(**changes: Any) -> dict[str, Any]:
    """What a page sends to ComfyUI's `/prompt`."""
    sent: dict[str, Any] = {
        "client_id": "a page",
        "prompt": {},
        "extra_data": {"extra_pnginfo": {"workflow": {"id": "an id"}}},
    }
    return {**sent, **changes}


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_what_a_page_queues_has_the_name_of_what_it_has_open(stand_in: StandIn, prefix: str) -> None:
    attach(stand_in.folder("crystools-tpu"), stand_in.modules())
    (name_prompt,) = stand_in.on_prompt
    async with TestClient(TestServer(stand_in.app)) as client:
        assert name_prompt(queued())["extra_data"].keys() == {"extra_pnginfo"}
        assert (await client.post(f"{prefix}{ADDRESS}", json={**TOLD, "name": "dogs"})).status == 204
        assert (await client.post(f"{prefix}{ADDRESS}", json=TOLD)).status == 204
    assert name_prompt(queued())["extra_data"]["crystools_tpu"] == {"name": "cats/at night"}


OTHER_WORKFLOW = {"extra_pnginfo": {"workflow": {"id": "another id"}}}
UNTOUCHED: list[dict[str, Any]] = [
    {"client_id": "another page"},
    {"extra_data": OTHER_WORKFLOW},
    {"extra_data": {**queued()["extra_data"], "crystools_tpu": {"name": "as its client says"}}},
]


@pytest.mark.parametrize("changes", UNTOUCHED)
async def test_what_has_a_name_of_its_own_or_is_another_workflow_is_left_alone(
    stand_in: StandIn, changes: dict[str, Any]
) -> None:
    attach(stand_in.folder("crystools-tpu"), stand_in.modules())
    async with TestClient(TestServer(stand_in.app)) as client:
        await client.post(ADDRESS, json=TOLD)
    assert stand_in.on_prompt[0](queued(**changes)) == queued(**changes)


async def test_what_is_no_prompt_is_left_to_comfyui(stand_in: StandIn) -> None:
    attach(stand_in.folder("crystools-tpu"), stand_in.modules())
    async with TestClient(TestServer(stand_in.app)) as client:
        await client.post(ADDRESS, json=TOLD)
    nobodys: list[dict[str, Any]] = [{}, {"client_id": "a page"}, {"client_id": []}]
    for odd in (*nobodys, {"client_id": "a page", "extra_data": None}):
        assert stand_in.on_prompt[0](dict(odd)) == odd


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"data": b"{}"}, 415),
        ({"json": []}, 400),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"json": {**TOLD, "name": ""}}, 400),
        ({"json": {**TOLD, "name": None}}, 400),
        ({"json": {**TOLD, "name": "n" * 1001}}, 400),
        ({"json": {**TOLD, "name": "n" * 65536}}, 413),
    ],
)
async def test_what_no_page_of_ours_would_send_is_refused(
    stand_in: StandIn, body: dict[str, Any], status: int
) -> None:
    attach(stand_in.folder("crystools-tpu"), stand_in.modules())
    async with TestClient(TestServer(stand_in.app)) as client:
        assert (await client.post(ADDRESS, **body)).status == status


async def test_the_pages_of_a_long_time_ago_are_forgotten(stand_in: StandIn) -> None:
    attach(stand_in.folder("crystools-tpu"), stand_in.modules())
    async with TestClient(TestServer(stand_in.app)) as client:
        await client.post(ADDRESS, json=TOLD)
        for number in range(1000):
            await client.post(ADDRESS, json={**TOLD, "client_id": str(number)})
    assert "crystools_tpu" not in stand_in.on_prompt[0](queued())["extra_data"]
    assert "crystools_tpu" in stand_in.on_prompt[0](queued(client_id="0"))["extra_data"]
