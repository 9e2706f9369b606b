"""The console in a real browser: each page and action, by keyboard, in light and dark, on a phone; axe-core."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browser import PHONE, keep, open_page, require_accessible
from tests.console.conftest import console_of
from tests.services.retrieval.fixtures import FIRST, RetrievalFixture, bands_of, write_tiff
from tests.services.support import Running, running

DRAWN = "chosen => [...document.querySelectorAll(chosen)].slice(0, 5).every(i => i.complete && i.naturalWidth === 120)"
"""Whether the first pictures of a selector have arrived."""


PIXEL = (
    "89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c020000000b4944415478da6364f80f00010501012718e366"
    "0000000049454e44ae426082"
)
"""A PNG of one pixel, in hexadecimal digits."""


@pytest.fixture(scope="module")
def name(archive: RetrievalFixture) -> str:
    return archive.pairs[0].meta.patch_id


def test_search_by_keyboard_alone(browser: Browser, console: Running, name: str) -> None:
    with open_page(browser, console.rest) as page:
        page.goto("/search")
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to content")
        page.keyboard.press("Enter")
        for _ in range(3):
            page.keyboard.press("Tab")
            if page.locator(":focus").get_attribute("id") == "patch_id":
                break
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        expect(page.locator("#results-title")).to_contain_text("20 hits, radar")
        assert f"patch_id={name}" in page.url, "the address can be shared"
        expect(page.locator("#status")).to_contain_text("20 hits")
        hit = page.locator("ol.hits > li").nth(1)
        wanted, more = hit.get_attribute("data-name"), hit.get_by_role("link", name="More like this")
        more.focus()
        page.keyboard.press("Enter")
        page.wait_for_url(f"**patch_id={wanted}**")
        expect(page.locator("li.hit.query")).to_contain_text(str(wanted))
        page.go_back()
        expect(page.locator("li.hit.query")).to_contain_text(name)


def test_a_mark_ranks_anew_at_once_and_can_be_taken_back(browser: Browser, console: Running, name: str) -> None:
    with open_page(browser, console.rest) as page:
        page.goto(f"/search?patch_id={name}&from=s1&to=s2&k=6")
        last = page.locator("ol.hits > li").last
        marked = str(last.get_attribute("data-name"))
        last.get_by_role("link", name="is similar").focus()
        page.keyboard.press("Enter")
        expect(page.locator(".notice")).to_contain_text("Re-ranked by 1 similar and 0 dissimilar hits")
        assert f"up={marked}" in page.url
        expect(page.locator(f"ol.hits > li[data-name='{marked}']").get_by_text("Similar ✓")).to_be_visible()
        require_accessible(page)
        keep(page, "search-marked")
        page.get_by_role("link", name="Forget the marks").click()
        expect(page.locator(".notice")).to_have_count(0)
        assert "up=" not in page.url


def test_pictures_and_map_are_drawn(browser: Browser, console: Running, name: str) -> None:
    with open_page(browser, console.rest) as page:
        page.goto(f"/search?patch_id={name}&from=s1&to=s2&k=12")
        page.wait_for_function("() => document.getElementById('map').dataset.loaded")
        page.wait_for_function(
            "[...document.querySelectorAll('img.picture')].slice(0, 6).every(i => i.complete && i.naturalWidth === 120)"
        )
        assert page.locator("#map canvas").count() >= 1
        assert colours_on_the_map(page) > 3, "footprints in their colours"
        require_accessible(page)
        keep(page, "search-hits")


def test_a_click_on_the_map_searches_for_that_patch(browser: Browser, console: Running) -> None:
    with open_page(browser, console.rest) as page:
        page.goto("/search")
        page.wait_for_function(f"() => document.getElementById('map').dataset.loaded == '{FIRST}'")
        require_accessible(page)
        keep(page, "search-start")
        centre = page.evaluate(
            """() => {
              const map = EoforgeMap.of(document.getElementById("map")); let first = null;
              map.eachLayer((layer) => { if (!first && layer instanceof L.Rectangle) first = layer; });
              map.fitBounds(first.getBounds(), { animate: false });
              const at = map.latLngToContainerPoint(first.getBounds().getCenter()); return [at.x, at.y];
            }"""
        )
        page.wait_for_timeout(400)  # the footprints of the new view are asked for after a moment
        box = page.locator("#map").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + centre[0], box["y"] + centre[1])
        page.wait_for_url("**/search?patch_id=**")
        expect(page.locator("li.hit.query")).to_have_count(1)


def test_a_box_is_drawn_with_the_mouse_or_taken_by_keyboard(browser: Browser, console: Running) -> None:
    with open_page(browser, console.rest) as page:
        page.goto("/search")
        page.wait_for_function("() => document.getElementById('map').dataset.loaded")
        box = page.locator("#map").bounding_box()
        assert box is not None
        page.locator("#draw-box").click()
        page.mouse.move(box["x"] + 60, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 40, steps=4)
        page.mouse.up()
        expect(page.locator("#results-title")).to_contain_text("patches that pass the filter")
        assert "bbox=" in page.url
        page.locator("#clear-box").focus()
        page.keyboard.press("Enter")
        assert page.locator("#bbox").input_value() == ""
        page.locator("#view-box").focus()
        page.keyboard.press("Enter")
        assert page.locator("#bbox").input_value().count(",") == 3


def test_an_image_is_uploaded_and_searched(
    browser: Browser, console: Running, archive: RetrievalFixture, tmp_path: Path
) -> None:
    pair = archive.pairs[5]
    tiff = tmp_path / "radar.tif"
    tiff.write_bytes(write_tiff(dict(bands_of(pair, "s1"))))
    with open_page(browser, console.rest) as page:
        page.goto("/search")
        page.locator("#files").set_input_files(tiff)
        page.locator("#upload-to").select_option("s1")
        page.get_by_role("button", name="Search for the image").click()
        if page.get_by_role("link", name="Show the hits").count():
            require_accessible(page)
            keep(page, "search-image")
            page.get_by_role("link", name="Show the hits").click()
        expect(page.locator(f"ol.hits > li[data-name='{pair.meta.patch_id}']")).to_contain_text("0 bits")


def test_the_page_of_a_patch(browser: Browser, console: Running, name: str) -> None:
    with open_page(browser, console.rest) as page:
        page.goto(f"/patch/{name}")
        page.wait_for_function(
            "[...document.querySelectorAll('.pictures img')].every(i => i.complete && i.naturalWidth)"
        )
        assert page.locator(".bands img").count() == 14
        require_accessible(page)
        keep(page, "patch")
        page.get_by_role("link", name="Search by its radar").click()
        expect(page.locator("li.hit.query")).to_contain_text(name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser: Browser, console: Running, name: str, scheme: str) -> None:
    with open_page(browser, console.rest, viewport=PHONE, color_scheme=scheme, has_touch=True) as page:
        for address, shot in ((f"/search?patch_id={name}&k=6", "search"), (f"/patch/{name}", "patch")):
            page.goto(address)
            page.wait_for_load_state("networkidle")
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, "nothing scrolls sideways"
            require_accessible(page)
            keep(page, f"phone-{scheme}-{shot}")


def test_errors_are_pages_that_read_well(browser: Browser, console: Running) -> None:
    with open_page(browser, console.rest, color_scheme="dark") as page:
        page.goto("/patch/nothing")
        expect(page.locator("h1")).to_have_text("Not found")
        require_accessible(page)
        keep(page, "problem")
        page.goto("/search")
        page.locator("#patch_id").fill("nothing")
        page.keyboard.press("Enter")
        expect(page.locator("#results .problem, .problem")).to_contain_text("No patch 'nothing'")
        expect(page.locator("#search-form")).to_be_visible()


def test_a_base_map_comes_from_the_server_of_the_settings_alone(
    browser: Browser, retrieval: Running, name: str
) -> None:
    tiles, credit = "https://tiles.example/{z}/{x}/{y}.png", "the makers of the map"
    made = console_of(retrieval_target=retrieval.target, base_map_url=tiles, base_map_credit=credit)
    with running(made) as run, open_page(browser, run.rest, others=("https://tiles.example/",)) as page:  # type: ignore[arg-type]
        tile = {"body": bytes.fromhex(PIXEL), "content_type": "image/png"}
        page.context.route("https://tiles.example/**", lambda route: route.fulfill(**tile))
        page.goto(f"/patch/{name}")
        expect(page.locator(".leaflet-control-attribution")).to_have_text(credit)
        page.wait_for_function("() => document.querySelector('.leaflet-tile-loaded')?.naturalWidth === 1")


def test_a_service_that_is_down(browser: Browser) -> None:
    down = console_of(retrieval_target="127.0.0.1:9", service_seconds=1.0)
    with running(down) as run, open_page(browser, run.rest) as page:  # type: ignore[arg-type]
        page.goto("/search")
        expect(page.locator(".problem")).to_contain_text("cannot be reached at the moment")
        keep(page, "down")


def colours_on_the_map(page: Page) -> int:
    """Number of distinct colours that are drawn on the map's canvas."""
    count = page.evaluate(
        """() => {
          const canvas = document.querySelector("#map canvas");
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const seen = new Set();
          for (let i = 0; i < data.length; i += 4)
            if (data[i + 3] > 200) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
          return seen.size;
        }"""
    )
    return int(count)
