"""Gallery: search and filters, films on hover, many chosen at once, undo, provenance, import, and metadata that restores."""

from __future__ import annotations

import base64
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Page, expect

from tests.studio.conftest import Studio, until


@pytest.fixture(scope="session")  # as the server: tests of a module need not run one after the other
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
    """Words, seed, star, kind, days, model and board, each asked of the server; the address keeps them."""
    ids = [r["id"] for r in three]
    asked: list[dict[str, str]] = []
    page.on(
        "request",
        lambda r: "/v1/runs?" in r.url and "limit=60" in r.url and asked.append(dict(parse_qsl(urlsplit(r.url).query))),
    )

    def heard(name: str, value: str) -> None:
        end = time.monotonic() + 30
        while not asked or asked[-1].get(name, "") != value:
            assert time.monotonic() < end, asked[-1:]
            page.wait_for_timeout(20)

    page.goto("/gallery")
    page.get_by_label("Search words").fill("green cactus")
    _cards(page, ids)
    heard("q", "green cactus")
    page.get_by_label("Seed").fill("32")
    _cards(page, [ids[1]])
    heard("seed", "32")
    page.get_by_label("Seed").fill("")
    _cards(page, ids)
    page.locator(".run-card").nth(2).hover()
    page.locator(".run-card").nth(2).get_by_role("button", name="Star").click()
    page.get_by_label("starred").check()
    _cards(page, [ids[2]])
    heard("star", "true")
    page.wait_for_url("**star=1*")
    page.reload()
    _cards(page, [ids[2]])
    page.get_by_label("starred").uncheck()
    page.get_by_label("Kind").select_option("edit")
    expect(page.get_by_text("No run fits these filters.")).to_be_visible()
    heard("kind", "edit")
    page.get_by_label("Kind").select_option("generate")
    _cards(page, ids)
    # Days are those of the clock here: from midnight, and up to the end of the other day.
    made = "(s) => { const d = new Date(s * 1000); return [d.getFullYear(), d.getMonth() + 1, d.getDate()]; }"
    today = "{:04d}-{:02d}-{:02d}".format(*page.evaluate(made, three[0]["created"]))
    page.get_by_label("Made since").fill(today)
    page.get_by_label("Made until").fill(today)
    until_day = str(
        int(page.evaluate("(d) => { const t = new Date(d + 'T00:00'); t.setDate(t.getDate() + 1); return t / 1000; }", today))
    )
    heard("until", until_day)
    _cards(page, ids)
    assert float(asked[-1]["until"]) - float(asked[-1]["since"]) in (23 * 3600, 86400, 25 * 3600)
    page.get_by_label("Made since").fill("")
    page.get_by_label("Made until").fill("2001-02-03")
    expect(page.get_by_text("No run fits these filters.")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").last.click()
    expect(page.locator(".run-card").first).to_be_visible()
    page.get_by_label("Search words").fill("green cactus")
    page.get_by_label("Model").select_option("fashion-mnist")
    expect(page.get_by_text("No run fits these filters.")).to_be_visible()
    heard("model", "fashion-mnist")


def test_a_filter_goes_on_over_pages(page: Page, studio: Studio, three: list[dict[str, Any]]) -> None:
    """The server answers filters, so what lies on a later page than the first is found."""
    ids = [r["id"] for r in three]
    for query in ("seed=31", f"since={three[2]['created']}&until={three[2]['created'] + 0.001}"):
        found = studio.call("GET", f"/v1/runs?q=green+cactus&limit=1&{query}")
        assert [r["id"] for r in found["runs"]] == [ids[2]]


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
    page.get_by_role("button", name="To the tray").click()
    assert page.evaluate("JSON.parse(localStorage.getItem('safelight.tray'))") == [r["id"] for r in three]
    page.get_by_role("button", name="Choose nothing").click()
    page.get_by_label("Search words").fill("")
    page.locator(".filters select[aria-label=Board]").select_option("plants")
    _cards(page, [r["id"] for r in three])
    assert {"name": "plants", "runs": 3} in studio.call("GET", "/v1/boards")["boards"]
    # One of them is taken off: it leaves the board that is looked at.
    links.nth(1).click(modifiers=["Control"])
    page.get_by_role("button", name="Off the board").click()
    _cards(page, [three[0]["id"], three[2]["id"]])
    links.nth(0).click(modifiers=["Control"])
    links.nth(1).click(modifiers=["Control"])
    links.nth(1).click(modifiers=["Control"])
    expect(page.locator(".actions [role=status]")).to_have_text("1 chosen")
    links.nth(1).click()  # while something is chosen a plain click chooses, too
    page.get_by_role("button", name="Star", exact=True).click()
    expect(page.get_by_role("button", name="Unstar")).to_be_visible()
    assert {r["id"] for r in studio.call("GET", "/v1/runs?star=true&board=plants")["runs"]} == {three[0]["id"], three[2]["id"]}
    page.get_by_role("button", name="Unstar").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_url("**/compare?runs=*")
    expect(page.locator(".cell")).to_have_count(2)


def test_chosen_with_the_keyboard_alone(page: Page, studio: Studio, three: list[dict[str, Any]]) -> None:
    """Arrows go from card to card, Space chooses, Shift chooses on the way; then they are keyframes of a morph, the oldest first."""
    page.goto("/gallery?q=green+cactus")
    _cards(page, [r["id"] for r in three])
    links = page.locator(".run-card > a")
    links.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator(".actions [role=status]")).to_have_text("1 chosen")
    page.keyboard.press("Shift+ArrowRight")
    expect(links.nth(2)).to_be_focused()
    expect(page.locator(".actions [role=status]")).to_have_text("2 chosen")
    page.keyboard.press("Home")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".actions")).to_have_count(0)
    page.keyboard.press("a")
    expect(page.locator(".actions [role=status]")).to_have_text("3 chosen")
    page.get_by_role("button", name="Morph", exact=True).press("Enter")
    page.wait_for_url("**/morph*")
    seeds = page.get_by_label("Seed of keyframe")
    expect(seeds).to_have_count(3)
    assert [seeds.nth(i).input_value() for i in range(3)] == ["31", "32", "33"]


def test_delete_is_undone(page: Page, studio: Studio, three: list[dict[str, Any]]) -> None:
    """Several at once by one call; Undo brings all back where they were, and the focus stays on the wall."""
    ids = [r["id"] for r in three]
    page.goto("/gallery?q=green+cactus")
    _cards(page, ids)
    for i in (0, 1):
        page.locator(".run-card input[type=checkbox]").nth(i).check(force=True)
    posted: list[str] = []
    page.on("request", lambda r: r.method in ("POST", "DELETE") and posted.append(r.url))
    page.keyboard.press("Delete")
    _cards(page, [ids[2]])
    expect(page.locator(".run-card > a").first).to_be_focused()
    assert [r["id"] for r in studio.call("GET", "/v1/runs?q=green+cactus")["runs"]] == [ids[2]]
    page.get_by_role("button", name="Undo", exact=True).click()
    _cards(page, ids)
    assert [url.removeprefix(studio.url) for url in posted] == ["/v1/runs/delete", "/v1/runs/restore"]
    for id in ids:
        assert studio.call("GET", f"/v1/runs/{id}")["state"] == "done"


def test_a_deletion_is_final_after_its_time(page: Page, studio: Studio) -> None:
    """After ten seconds the offer is gone, and the server has nothing to bring back."""
    one, other = (studio.wait(studio.make(prompt=["a lonely thistle"], steps=2, count=1)["id"])["id"] for _ in range(2))
    page.goto("/gallery?q=lonely+thistle")
    _cards(page, [other, one])
    page.locator(".run-card input[type=checkbox]").last.check(force=True)
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name="Undo", exact=True)).to_be_visible()
    _cards(page, [other])
    expect(page.get_by_role("button", name="Undo", exact=True)).to_have_count(0)
    assert studio.call("POST", "/v1/runs/delete", {"ids": [other]}) == {"ids": [other], "missing": []}
    assert studio.call("POST", "/v1/runs/restore", {"ids": [one, other]}) == {"ids": [other], "missing": [one]}


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


def test_hundreds_of_cards_stay_smooth(page: Page, studio: Studio, made: dict[str, Any]) -> None:
    """With 600 runs on the wall a step of scrolling, and choosing one, costs the page less than a frame."""
    base = studio.call("GET", f"/v1/runs/{made['id']}")

    def answer(route: Any) -> None:
        at = int(route.request.url.split("before=x")[1].split("&")[0]) if "before=x" in route.request.url else 601
        runs = [base | {"id": f"x{at - i}", "created": 4e9 + at - i} for i in range(1, 61) if at - i > 0]
        route.fulfill(json={"runs": runs, "next": runs[-1]["id"] if at > 61 else None})

    picture = studio.raw(made["pictures"][0]["url"])
    page.route("**/v1/runs?*limit=60*", answer)
    page.route("**/v1/runs/x*/**", lambda route: route.fulfill(body=picture, content_type="image/png"))
    page.goto("/gallery")
    end = "(() => { const m = document.querySelector('main'); m.scrollTo(0, m.scrollHeight); "
    until(page, end + "return document.querySelectorAll('.run-card').length === 600; })()")
    page.wait_for_timeout(1000)
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent(script: str) -> float:
        cost = lambda: {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]  # noqa: E731
        before = cost()
        page.evaluate(script)
        return float(cost() - before) / 60

    frames = "for (let i = 0; i < 60; i++) { %s; await new Promise(requestAnimationFrame); }"
    scroll = "(async () => { const m = document.querySelector('main'); " + frames % "m.scrollBy(0, -120)" + " })()"
    pick = "(async () => { const c = document.querySelectorAll('.run-card input'); " + frames % "c[i].click()" + " })()"
    assert spent(scroll) < 0.016
    assert spent(pick) < 0.032
    expect(page.locator(".actions [role=status]")).to_have_text("60 chosen")


def test_the_tree_of_a_run_that_was_forked_edited_and_varied(page: Page, studio: Studio) -> None:
    root = studio.wait(studio.make(prompt=["a brown root"], seed=3, steps=3, count=1)["id"])
    seal = root["pictures"][0]["seal"]
    forked = studio.wait(
        studio.call("POST", f"/v1/runs/{root['id']}/fork", {"step": 1, "request": {"prompt": "a brown stone"}})["id"]
    )
    edited = studio.wait(
        studio.make(prompt=["a brown branch"], steps=3, count=1, task={"kind": "image", "picture": seal, "strength": 0.6})["id"]
    )
    varied = studio.wait(
        studio.make(
            prompt=["a brown root"], steps=3, count=1, task={"kind": "vary", "seed": 8, "strength": 0.3}, parent=root["id"]
        )["id"]
    )
    page.goto("/gallery?q=brown+branch")
    page.locator(".run-card").first.hover()
    page.locator(".run-card").first.get_by_role("button", name="Where").click()
    tree = page.locator(".tree")
    expect(tree.locator("> li > a")).to_have_attribute("href", f"/run/{root['id']}")
    told = tree.locator("> li > ul > li > a > span")
    assert [t.split("\n")[0] for t in told.all_inner_texts()] == ["fork at step 1", "edit, this one", "vary"]
    hrefs = tree.locator("> li > ul > li > a").evaluate_all("(all) => all.map((a) => a.pathname.slice(5))")
    assert hrefs == [forked["id"], edited["id"], varied["id"]]
    tree.locator("a").nth(1).press("Enter")
    page.wait_for_url(f"**/run/{forked['id']}*")


def _dropped(page: Page, name: str, data: bytes) -> None:
    """Drop a file onto the page, as from a folder of the desktop."""
    page.evaluate(
        """async ([text, name]) => {
          const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), data = new DataTransfer();
          data.items.add(new File([bytes], name, { type: "image/png" }));
          const more = { dataTransfer: data, bubbles: true, cancelable: true };
          for (const type of ["dragenter", "dragover", "drop"]) document.body.dispatchEvent(new DragEvent(type, more));
        }""",
        [base64.b64encode(data).decode(), name],
    )
    page.get_by_role("button", name="Restore").click()
    page.wait_for_url("**/create*")


def test_a_downloaded_picture_restores_its_settings(
    page: Page, studio: Studio, three: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Out of the gallery as a zip, its picture dropped anywhere: words, seed and steps are in the form again."""
    page.goto("/gallery?q=green+cactus")
    page.locator(".run-card input[type=checkbox]").nth(1).check(force=True)
    with page.expect_download() as got:
        page.get_by_role("button", name="Zip", exact=True).click()
    name = f"{three[1]['id']}-0.png"
    _dropped(page, name, zipfile.ZipFile(got.value.path()).read(name))
    expect(page.locator("#prompt")).to_have_value("a green cactus")
    form = page.evaluate("JSON.parse(localStorage.getItem('safelight.form'))")
    assert (form["seed"], form["steps"]) == (32, 3)


_A1111 = "a purple cow\nNegative prompt: blurry\nSteps: 11, Sampler: Euler, CFG scale: 4, Seed: 77, Size: 64x64, Model: other"


def test_a_folder_is_taken_in_ours_and_a1111s(page: Page, studio: Studio, three: list[dict[str, Any]], tmp_path: Path) -> None:
    """A folder of PNGs: a plain one, one with A1111's words, one of ours that is here already, one that is no picture."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (32, 24), "teal").save(folder / "teal.png")
    info = PngInfo()
    info.add_text("parameters", _A1111)
    Image.new("RGB", (64, 64), "purple").save(folder / "deep" / "cow.png", pnginfo=info)
    (folder / "ours.png").write_bytes(studio.raw(three[0]["pictures"][0]["url"]))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (folder / "notes.txt").write_text("not for us")
    page.goto("/gallery?kind=import")
    page.locator("input[type=file][webkitdirectory]").set_input_files(folder)
    expect(page.locator(".run-card")).to_have_count(2)
    expect(page.locator(".note.error")).to_contain_text("broken.png")
    assert "1 were here already" in page.locator(".hear").inner_text()
    runs = {r["title"]: r for r in studio.call("GET", "/v1/runs?kind=import")["runs"]}
    assert runs["teal"]["pictures"][0]["width"] == 32
    cow = runs["cow"]
    assert (cow["prompt"], cow["seed"], cow["request"]["negative"], cow["request"]["steps"]) == (
        "a purple cow",
        77,
        "blurry",
        11,
    )
    # The other way: a picture of A1111, dropped, fills the form.
    _dropped(page, "cow.png", (folder / "deep" / "cow.png").read_bytes())
    expect(page.locator("#prompt")).to_have_value("a purple cow")
    form = page.evaluate("JSON.parse(localStorage.getItem('safelight.form'))")
    assert (form["seed"], form["steps"], form["negative"]) == (77, 11, "blurry")
    # And ours carries A1111's text, too.
    with Image.open(io.BytesIO(studio.raw(three[0]["pictures"][0]["url"]))) as picture:
        assert picture.info["parameters"].startswith("a green cactus\nSteps: 3, ")


def test_an_empty_gallery_offers_the_recorded_run(page: Page, studio: Studio) -> None:
    page.route("**/v1/runs?*limit=60*", lambda route: route.fulfill(json={"runs": [], "next": None}))
    page.goto("/gallery")
    expect(page.get_by_role("link", name="Make a picture")).to_be_visible()
    expect(page.get_by_role("link", name="Watch a recorded run")).to_have_attribute("href", "/run/example")


def test_a_page_that_fails_is_asked_for_again(page: Page, studio: Studio, three: list[dict[str, Any]]) -> None:
    """Once, when the reader says so; not over and over."""
    page.allowed.extend(["503", "Failed to load"])  # type: ignore[attr-defined]
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=503, json={"error": {"message": "not now", "type": "server"}})
        else:
            route.continue_()

    page.route("**/v1/runs?*limit=60*", answer)
    page.goto("/gallery?q=green+cactus")
    expect(page.get_by_text("not now")).to_be_visible()
    page.wait_for_timeout(600)
    assert len(asked) == 1
    page.get_by_role("button", name="Try again").click()
    _cards(page, [r["id"] for r in three])


@pytest.mark.parametrize("scheme,width", [("light", 1280), ("dark", 390)])
def test_accessible(page: Page, made: dict[str, Any], clean: Callable[[Page], None], scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/gallery")
    page.wait_for_selector(".run-card")
    page.locator(".run-card input[type=checkbox]").first.check(force=True)
    clean(page)
