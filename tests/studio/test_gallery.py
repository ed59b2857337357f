"""Gallery: search and filters, films on hover, many chosen at once, undo, provenance, import, and metadata that restores."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio


@pytest.fixture(scope="module")
def three(studio: Studio) -> list[dict[str, Any]]:
    """Three finished runs of one word that no other test uses, the newest first."""
    runs = [studio.make(prompt=["a green cactus"], seed=s, steps=3, count=1) for s in (31, 32, 33)]
    return [studio.wait(r["id"]) for r in reversed(runs)]


def _cards(page: Page, ids: list[str]) -> None:
    """Wait until the wall shows these runs in this order."""
    expect(page.locator(".run-card")).to_have_count(len(ids))
    for i, id in enumerate(ids):
        expect(page.locator(".run-card > a").nth(i)).to_have_attribute("href", f"/run/{id}")


def test_search_and_filters(page: Page, studio: Studio, three: list[dict[str, Any]]) -> None:
    ids = [r["id"] for r in three]
    page.goto("/gallery")
    page.get_by_label("Search words").fill("green cactus")
    _cards(page, ids)
    page.get_by_label("Seed").fill("32")
    _cards(page, [ids[1]])
    page.get_by_label("Seed").fill("")
    page.locator(".run-card").nth(2).hover()
    page.locator(".run-card").nth(2).get_by_role("button", name="Star").click()
    page.get_by_label("starred").check()
    _cards(page, [ids[2]])
    page.wait_for_url("**star=1*")
    page.reload()
    _cards(page, [ids[2]])
    page.get_by_label("starred").uncheck()
    page.get_by_label("Kind").select_option("edit")
    expect(page.get_by_text("No run fits these filters.")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    expect(page.locator(".run-card").first).to_be_visible()


def test_hovering_plays_the_denoising(page: Page, three: list[dict[str, Any]]) -> None:
    page.goto("/gallery?q=green+cactus")
    card = page.locator(".run-card").first
    card.hover()
    seen = {card.locator("canvas").get_attribute("data-step")}
    for _ in range(40):
        page.wait_for_timeout(40)
        seen.add(card.locator("canvas").get_attribute("data-step"))
    assert seen >= {"0", "1", "2"}
    page.get_by_label("Search words").hover()
    expect(card.locator("img")).to_be_visible()


def test_many_at_once_zip_board_compare(page: Page, studio: Studio, three: list[dict[str, Any]], tmp_path: Any) -> None:
    page.goto("/gallery?q=green+cactus")
    _cards(page, [r["id"] for r in three])
    links = page.locator(".run-card > a")
    links.nth(0).click(modifiers=["Shift"])
    links.nth(2).click(modifiers=["Shift"])
    expect(page.locator(".actions [role=status]")).to_have_text("3 chosen")
    with page.expect_download() as got:
        page.get_by_role("button", name="Zip", exact=True).click()
    got.value.save_as(tmp_path / "all.zip")
    packed = zipfile.ZipFile(tmp_path / "all.zip")
    assert packed.testzip() is None
    for run in three:
        assert packed.read(f"{run['id']}-0.png") == studio.raw(run["pictures"][0]["url"])
    page.get_by_role("combobox", name="Board").last.fill("plants")
    page.get_by_role("button", name="Put on board").click()
    page.get_by_label("Search words").fill("")
    page.locator(".filters select[aria-label=Board]").select_option("plants")
    _cards(page, [r["id"] for r in three])
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_url("**/compare?runs=*")
    expect(page.locator(".cell")).to_have_count(3)


def test_delete_is_undone(page: Page, studio: Studio, three: list[dict[str, Any]]) -> None:
    ids = [r["id"] for r in three]
    page.goto("/gallery?q=green+cactus")
    _cards(page, ids)
    page.locator(".run-card input[type=checkbox]").nth(1).check(force=True)
    page.keyboard.press("Delete")
    _cards(page, [ids[0], ids[2]])
    assert [r["id"] for r in studio.call("GET", "/v1/runs?q=green+cactus")["runs"]] == [ids[0], ids[2]]
    page.get_by_role("button", name="Undo", exact=True).click()
    _cards(page, ids)
    assert studio.call("GET", f"/v1/runs/{ids[1]}")["state"] == "done"


def test_pages_follow_as_one_scrolls(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """The list is read a page at a time; the second comes when its end is near, and no run comes twice."""
    base = studio.call("GET", f"/v1/runs/{made['id']}")
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        at = int(route.request.url.split("before=x")[1].split("&")[0]) if "before=x" in route.request.url else 200
        runs = [base | {"id": f"x{at - i}", "created": 4e9 + at - i} for i in range(1, 61) if at - i > 0]
        route.fulfill(json={"runs": runs, "next": runs[-1]["id"] if at > 61 else None})

    picture = studio.raw(made["pictures"][0]["url"])
    page.route("**/v1/runs?*limit=60*", answer)
    page.route("**/v1/runs/x*/**", lambda route: route.fulfill(body=picture, content_type="image/png"))
    page.goto("/gallery")
    expect(page.locator(".run-card").first).to_be_visible()
    for _ in range(12):
        page.locator("main").evaluate("(m) => m.scrollTo(0, m.scrollHeight)")
        page.wait_for_timeout(150)
    expect(page.get_by_text("199 runs, no more.")).to_be_visible()
    hrefs = page.locator(".run-card > a").evaluate_all("(list) => list.map((a) => a.pathname)")
    assert len(hrefs) == len(set(hrefs)) == 199 and len(asked) >= 4


def test_provenance(page: Page, studio: Studio, three: list[dict[str, Any]]) -> None:
    child = studio.wait(studio.call("POST", f"/v1/runs/{three[0]['id']}/fork", {"step": 1, "request": {}})["id"])
    page.goto("/gallery?q=green+cactus")
    page.locator(".run-card").first.hover()
    page.locator(".run-card").first.get_by_role("button", name="Where").click()
    tree = page.locator(".tree")
    expect(tree.locator("> li > a")).to_have_attribute("href", f"/run/{three[0]['id']}")
    expect(tree.locator("> li > ul > li > a")).to_have_attribute("href", f"/run/{child['id']}")
    expect(tree.locator("[aria-current]")).to_contain_text("fork, this one")
    studio.call("DELETE", f"/v1/runs/{child['id']}")


def test_import_and_restore(page: Page, studio: Studio, three: list[dict[str, Any]]) -> None:
    """A plain picture is taken in as a run; one of ours, dropped, brings its settings back into Create."""
    out = io.BytesIO()
    Image.new("RGB", (32, 24), "teal").save(out, "PNG")
    page.goto("/gallery?kind=import")
    page.locator("input[type=file]").first.set_input_files(
        {"name": "teal.png", "mimeType": "image/png", "buffer": out.getvalue()}
    )
    expect(page.locator(".run-card")).to_have_count(1)
    assert studio.call("GET", "/v1/runs?kind=import")["runs"][0]["pictures"][0]["width"] == 32
    ours = base64.b64encode(studio.raw(three[1]["pictures"][0]["url"])).decode()
    page.evaluate(
        """async (text) => {
          const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), data = new DataTransfer();
          data.items.add(new File([bytes], "ours.png", { type: "image/png" }));
          const more = { dataTransfer: data, bubbles: true, cancelable: true };
          for (const type of ["dragenter", "dragover", "drop"]) document.body.dispatchEvent(new DragEvent(type, more));
        }""",
        ours,
    )
    page.get_by_role("button", name="Restore").click()
    page.wait_for_url("**/create*")
    expect(page.locator("#prompt")).to_have_value("a green cactus")
    form = page.evaluate("JSON.parse(localStorage.getItem('safelight.form'))")
    assert (form["seed"], form["steps"]) == (32, 3)


@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, made: dict[str, Any], clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/gallery")
    page.wait_for_selector(".run-card")
    page.locator(".run-card input[type=checkbox]").first.check(force=True)
    clean(page)
