"""Draw app.jpg, app_timeline.jpg and app_narrow.jpg: the page over the people of `vtest.avi`, in headless Chromium.

make footage-vtest VIDEO=vtest.avi
python -m mmet.app --gallery outputs/footage/vtest-people --port 7860
python docs/images/page.py http://127.0.0.1:7860
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).resolve().parent
SENTENCE = "a woman in a red jacket and blue jeans"
SETTLED = 1_500
"""Milliseconds until pictures are decoded and transitions over."""


def open_first_result(browser: Any, address: str, **options: Any) -> Any:
    """A page with the answer to the sentence, and its first result explained word by word."""
    page = browser.new_context(**options).new_page()
    page.goto(address)
    page.wait_for_selector(".mm-welcome")
    page.fill("#mm-text textarea, #mm-text input", SENTENCE)
    page.keyboard.press("Enter")
    page.wait_for_selector(".mm-answer .mm-card")
    page.locator(".mm-answer .mm-card").first.click()
    page.wait_for_selector(".mm-panels li:nth-child(6)")
    return page


def save(page: Any, name: str) -> None:
    """What the window shows, as JPEG of quality 88."""
    page.wait_for_timeout(SETTLED)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(FOLDER / name, quality=88, optimize=True)


def main(address: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = open_first_result(browser, address, viewport={"width": 1280, "height": 860})
        save(page, "app.jpg")
        page.locator("[data-timeline]").click()
        page.wait_for_selector(".mm-timeline .mm-seen li")
        save(page, "app_timeline.jpg")
        narrow = {"width": 375, "height": 800}
        save(open_first_result(browser, address, viewport=narrow, color_scheme="dark"), "app_narrow.jpg")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
