"""The studio, used as a person uses it: by mouse and by keyboard alone."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect
from support.deployment import DeploymentUnderTest

OpenPage = Callable[..., Page]
# Small and few-step, so that a test takes seconds on two cores.
FAST = "/#prompt=a+red+cube&n=2&size=64&decoder_num_inference_steps=2"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def pixels_of(content: bytes) -> np.ndarray:
    """Return a PNG's pixels `[height, width, 3]`."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def generate(page: Page, count: int = 2) -> None:
    """Generate and wait for the newest job's images."""
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".job").first.locator("button.tile img")).to_have_count(count)


def open_image(page: Page, tab: str) -> None:
    """Open the newest job's first image at a tab."""
    page.locator(".job").first.locator("button.tile").first.click()
    page.get_by_role("tab", name=tab, exact=True).click()


def test_an_image_is_three_clicks_away(open_page: OpenPage) -> None:
    """Type, generate, look: with a place in the queue or progress in between."""
    page = open_page()
    expect(page).to_have_title("unCLIP studio")
    page.get_by_label("Describe an image").fill("a red cube")
    page.get_by_label("Images").fill("1")
    page.get_by_label("Size").select_option("64")
    page.get_by_label("Describe an image").press("Enter")
    tile = page.locator(".job").first.locator("button.tile img")
    expect(tile).to_have_attribute("alt", "a red cube, image 1")
    tile.click()
    expect(page.get_by_role("dialog", name="a red cube")).to_be_visible()


def test_the_address_is_the_form(open_page: OpenPage) -> None:
    """It fills the form, and follows it."""
    page = open_page("/#prompt=a+blue+cone&seed=7&n=3&size=1024")
    expect(page.get_by_label("Describe an image")).to_have_value("a blue cone")
    expect(page.get_by_label("Seed")).to_have_value("7")
    page.get_by_label("Seed").fill("8")
    expect(page).to_have_url(re.compile("seed=8"))


def test_a_job_is_stopped(open_page: OpenPage) -> None:
    """Stop cancels it at the service."""
    page = open_page("/#prompt=a+cube&n=1&size=64&decoder_num_inference_steps=1000")
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Stop", exact=True).first.click()
    expect(page.locator(".job").first.get_by_role("status")).to_have_text("Stopped")


def test_variations_are_made_of_an_image(open_page: OpenPage) -> None:
    page = open_page(FAST)
    generate(page)
    open_image(page, "Variations")
    page.get_by_role("dialog").get_by_label("Images").fill("2")
    page.get_by_role("button", name="Make variations").click()
    expect(page.locator("dialog .results .tile img")).to_have_count(2)
    expect(page.locator("dialog .results .tile img").first).to_have_attribute(
        "src", re.compile("/images/0.png")
    )


def test_an_edit_leaves_pixels_outside_its_mask(
    open_page: OpenPage, studio: DeploymentUnderTest
) -> None:
    """A stroke in the upper left corner: the lower half stays as it is, to the bit."""
    page = open_page(FAST)
    generate(page)
    before = page.locator(".job button.tile img").first.get_attribute("src")
    open_image(page, "Edit")
    box = page.get_by_role("img", name="Mask: paint").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.15 * box["width"], box["y"] + 0.15 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"], steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Edit", exact=True).click()
    results = page.locator("dialog .results .tile img")
    expect(results.first).to_have_attribute("src", re.compile("/images/0.png"))
    after = results.first.get_attribute("src")
    assert before is not None
    assert after is not None
    old = pixels_of(studio.http.get(before).content)
    new = pixels_of(studio.http.get(after).content)
    assert (old[32:] == new[32:]).all()
    assert (old[:24, :24] != new[:24, :24]).any()


def test_an_edit_without_a_mask_is_explained(open_page: OpenPage) -> None:
    page = open_page(FAST)
    generate(page)
    open_image(page, "Edit")
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("Paint over the part to change first.")


def test_words_change_an_image_frame_by_frame(open_page: OpenPage) -> None:
    """The scrubber moves through the frames, and the animation can be saved."""
    page = open_page(FAST)
    generate(page)
    open_image(page, "Words")
    page.get_by_label("It should show").fill("a blue cube")
    page.get_by_role("button", name="Change", exact=True).click()
    frame = page.get_by_role("dialog").locator(".frames img")
    expect(frame).to_have_attribute("alt", "Frame 1 of 8")
    page.get_by_role("slider", name="Frame").fill("7")
    expect(frame).to_have_attribute("alt", "Frame 8 of 8")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save WEBP").click()
    with Image.open(download.value.path()) as animation:
        assert animation.n_frames > 8


def test_an_image_is_mixed_with_a_prompt_and_interpolated(open_page: OpenPage) -> None:
    page = open_page(FAST)
    generate(page)
    open_image(page, "Mix")
    page.get_by_label("Part 2: prompt").fill("a cone")
    page.get_by_role("button", name="Mix", exact=True).click()
    expect(page.locator("dialog .results .tile img")).to_have_count(2)
    page.get_by_role("tab", name="Between").click()
    page.get_by_label("Other end: prompt").fill("a cone")
    page.get_by_label("Frames").fill("3")
    page.get_by_role("button", name="Interpolate").click()
    expect(page.locator("dialog .frames img")).to_have_attribute("alt", "Frame 1 of 3")


def test_clips_view_and_the_call_are_shown(open_page: OpenPage) -> None:
    """Labels with probabilities; provenance; curl, Python and OpenAI's client."""
    page = open_page(FAST)
    generate(page)
    open_image(page, "Inspect")
    page.get_by_label("Labels, with commas").fill("a cube, a cone")
    page.get_by_label("Rebuild the image").uncheck()
    page.get_by_role("button", name="Inspect", exact=True).click()
    expect(page.locator(".bars li")).to_have_count(2)
    page.get_by_role("tab", name="Details").click()
    expect(page.locator(".facts")).to_contain_text("a red cube")
    for name in ("curl", "Python", "OpenAI"):
        expect(page.locator(".call", has_text=name).locator("pre").first).to_contain_text("a red")


@pytest.mark.parametrize(("button", "kind"), [("PNG", "PNG"), ("WEBP", "WEBP"), ("JPEG", "JPEG")])
def test_images_are_downloaded_in_each_format(open_page: OpenPage, button: str, kind: str) -> None:
    page = open_page(FAST)
    generate(page)
    open_image(page, "Variations")
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    with Image.open(download.value.path()) as image:
        assert image.format == kind


def test_an_own_png_fills_the_form_and_another_is_an_input(
    open_page: OpenPage, tmp_path: Path
) -> None:
    """By its metadata; any other image opens, to be varied or edited."""
    page = open_page(FAST + "&seed=41")
    generate(page)
    open_image(page, "Variations")
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG", exact=True).click()
    other = tmp_path / "other.jpg"
    Image.new("RGB", (90, 60), "green").save(other)
    page = open_page()
    page.get_by_label("Upload image").set_input_files(
        {
            "name": "own.png",
            "mimeType": "image/png",
            "buffer": Path(download.value.path()).read_bytes(),
        }
    )
    expect(page.get_by_label("Seed")).to_have_value("41")
    expect(page.get_by_label("Describe an image")).to_have_value("a red cube")
    page.get_by_label("Upload image").set_input_files(other)
    expect(page.get_by_role("dialog", name="Uploaded image")).to_be_visible()


def test_kept_images_survive_a_reload_and_are_searched(open_page: OpenPage) -> None:
    page = open_page(FAST.replace("a+red+cube", "a+very+special+cube"))
    generate(page)
    open_image(page, "Variations")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("status").filter(has_text="Kept in the gallery.")).to_be_visible()
    page.reload()
    page.get_by_role("button", name="Gallery").click()
    page.get_by_label("Words", exact=True).fill("SPECIAL")
    expect(page.locator(".kept")).to_have_count(1)
    page.get_by_label("Words", exact=True).fill("nothing like it")
    expect(page.get_by_text("No kept image matches.")).to_be_visible()


def test_a_sweep_fills_a_grid(open_page: OpenPage) -> None:
    page = open_page(FAST)
    page.get_by_role("button", name="Sweep").click()
    page.get_by_label("Values").first.fill("1, 2")
    page.get_by_label("Rows").select_option("sampler")
    page.get_by_label("Values").nth(1).fill("ddpm, ddim")
    page.get_by_role("button", name="Generate 4 images").click()
    expect(page.locator(".grid img")).to_have_count(4)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the grid").click()
    with Image.open(download.value.path()) as sheet:
        assert sheet.width == 512


def test_only_chosen_candidates_are_generated_at_full_size(open_page: OpenPage) -> None:
    page = open_page(FAST + "&seed=100")
    page.get_by_role("button", name="Choose of 16").click()
    page.get_by_role("button", name="Generate 16 candidates").click()
    expect(page.locator("dialog .tile img")).to_have_count(16)
    page.get_by_label("Candidate 3", exact=True).click()
    page.get_by_role("button", name="Generate 1 at full size").click()
    expect(page.locator(".job").first.locator("button.tile img")).to_have_count(1)
    page.locator(".job").first.locator("button.tile").click()
    expect(page.get_by_role("dialog")).to_contain_text("seed 102 · 256 × 256")


def test_the_keyboard_is_enough(open_page: OpenPage) -> None:
    """`/` to the prompt, Enter generates, arrows move, Esc closes, `?` helps."""
    page = open_page(FAST)
    page.keyboard.press("/")
    expect(page.get_by_label("Describe an image")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".job").first.locator("button.tile img")).to_have_count(2)
    page.locator(".job").first.locator("button.tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.locator("body").press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()


def test_a_wrong_request_is_a_sentence(open_page: OpenPage, problems: list[str]) -> None:
    """The service's message, next to the job."""
    page = open_page("/#prompt=a+cube&n=1&size=64&sampler=nonsense")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("sampler")
    assert all("422" in problem for problem in problems)
    problems.clear()


@pytest.mark.parametrize("options", [{}, PHONE | {"color_scheme": "dark"}])
def test_no_view_has_a_serious_accessibility_violation(
    open_page: OpenPage, options: dict[str, object]
) -> None:
    """By axe-core, on a desktop and on a dark phone."""
    page = open_page(FAST, **options, bypass_csp=True)
    generate(page)

    def check(view: str) -> None:
        violations = Axe().run(page).response["violations"]
        grave = [
            (view, each["id"]) for each in violations if each["impact"] in ("serious", "critical")
        ]
        assert grave == []

    check("page")
    open_image(page, "Variations")
    for tab in page.get_by_role("tab").all():
        tab.click()
        check(tab.inner_text())
    page.keyboard.press("Escape")
    for name in ("Sweep", "Choose of 16", "Gallery", "API key", "Help"):
        page.get_by_role("button", name=name).click()
        check(name)
        page.keyboard.press("Escape")


def test_the_page_asks_nobody_else_and_is_small(open_page: OpenPage) -> None:
    """No request leaves the service's origin; everything fits in 250 kB, uncompressed."""
    page = open_page("about:blank")
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.update({answer.url: len(answer.body())}))
    page.goto("/", wait_until="networkidle")
    assert {url for url in sizes if not url.startswith("http://127.0.0.1:")} == set()
    files = {url: size for url, size in sizes.items() if "/studio/" in url}
    assert len(files) > 10
    assert sum(files.values()) < 250_000


def test_the_api_documentation_loads_only_from_the_service(
    open_page: OpenPage, problems: list[str]
) -> None:
    """Swagger UI shows every operation under its content policy, from files of the service."""
    page = open_page("about:blank")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto("/docs", wait_until="networkidle")
    page.locator(".opblock-post").first.click()
    page.get_by_role("button", name="Try it out").click()
    assert page.locator(".opblock").count() > 10
    own = re.compile(r"(http://127\.0\.0\.1:\d+/|data:|blob:)")
    assert [url for url in urls if not own.match(url)] == []
    assert problems == []
