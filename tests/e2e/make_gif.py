"""Record the README's animation: `python tests/e2e/make_gif.py docs/img/session.gif [--keep FOLDER]`.

Serves the workbench on the embedded run, performs one session in a headless browser as docs/tour.md does, and writes the captioned
screenshots into one GIF of fewer than three million bytes.
"""

import argparse
import io
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page
from served_app import browser, served, settle

PROBLEM = "chain/eval/add:21+1+3+1+2"
"""The first held-out problem of the embedded run, whose second step was steered."""
ACTION = "p0010c"
VIEW = {"width": 1120, "height": 680}
HEADER = 110
"""Height of the top bar, in pixels."""
WIDTH = 900
BAR = 40
MOST_BYTES = 3_000_000
PATIENT = 600
"""Seconds to wait for a page; large, because a busy machine is slow."""


class Shot(NamedTuple):
    """One picture, its caption, and its duration."""

    image: Image.Image
    said: str
    milliseconds: int


def session(page: Page, url: str) -> Iterator[Shot]:
    """Look at an action, at the decision that committed it, decode both answers, and deny it."""

    def open_(name: str, **chosen: str) -> None:
        page.goto(f"{url}/{name}?{urlencode({'run': 'two_habits', **chosen})}")
        settle(page, seconds=PATIENT)

    def seen(said: str, milliseconds: int = 2600) -> Shot:
        page.mouse.move(2, 2)
        return Shot(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), said, milliseconds)

    def scroll(pixels: int) -> None:
        page.mouse.move(VIEW["width"] / 2, VIEW["height"] / 2)
        page.mouse.wheel(0, pixels)
        page.wait_for_timeout(1200)

    def scroll_to(text: str) -> None:
        page.get_by_text(text).locator("visible=true").first.evaluate("node => node.scrollIntoView({block: 'start'})")
        scroll(-HEADER)

    open_("")
    scroll_to("Vanilla accuracy")
    yield seen("A run: what was harvested, selected and steered, with n and intervals")
    open_("actions", action=ACTION)
    scroll_to("Signal or confound")
    yield seen("One latent action: is it correctness, or length, or luck?")
    open_("gates", problem=PROBLEM)
    page.get_by_role("radio", name="1", exact=True).or_(page.get_by_role("button", name="1", exact=True)).first.click()
    settle(page, seconds=PATIENT)
    scroll_to(f"{ACTION} 1.864")
    yield seen("The gate at control point 1: retrieved, previewed, committed, and why not the others")
    open_("trace", problem=PROBLEM)
    page.get_by_role("button", name="Decode both answers").click()
    page.get_by_text(re.compile("^m 0 ")).first.wait_for()
    scroll(320)
    ready = page.get_by_role("button", name="Download as one HTML file")
    for _ in range(6):
        page.wait_for_timeout(1500)
        if ready.is_visible():
            break
        yield seen("The same prompt decoded vanilla and steered, side by side", 700)
    ready.wait_for()
    settle(page, seconds=PATIENT)
    scroll(60)
    yield seen("Both answers, with the decision under each step")
    for kind in ("KL", "Jump to first divergence"):
        page.get_by_role("button", name=kind, exact=True).or_(page.get_by_role("radio", name=kind, exact=True)).first.click()
        page.wait_for_timeout(1200)
    yield seen("How far the impulse moved each token's distribution: KL, held at the first difference", 3200)
    open_("what_if", problem=PROBLEM)
    page.get_by_role("button", name="Deny", exact=True).or_(page.get_by_role("radio", name="Deny", exact=True)).first.click()
    settle(page, seconds=PATIENT)
    page.get_by_role("button", name="Branch: m 1: deny").click()
    page.get_by_text("#1").locator("visible=true").first.wait_for()
    settle(page, seconds=PATIENT)
    scroll(270)
    yield seen("What if it had not acted? The answer decoded on without the impulse", 3200)


def frame(shot: Shot) -> Image.Image:
    """A picture in its final size with its caption."""
    height = round(shot.image.height * WIDTH / shot.image.width)
    whole = Image.new("RGB", (WIDTH, height + BAR), (24, 27, 35))
    whole.paste(shot.image.resize((WIDTH, height), Image.Resampling.LANCZOS), (0, 0))
    ImageDraw.Draw(whole).text((14, height + 10), shot.said, fill=(240, 242, 246), font=ImageFont.load_default(17))
    return whole


def assembled(shots: list[Shot]) -> bytes:
    """The GIF, with as many colours as fit into ``MOST_BYTES``; a repeated picture extends the one before it."""
    frames = [frame(shot) for shot in shots]
    for colours in (128, 96, 64, 48):
        palette = [each.quantize(colours, dither=Image.Dither.NONE) for each in frames]
        out = io.BytesIO()
        durations = [shot.milliseconds for shot in shots]
        palette[0].save(out, "GIF", save_all=True, append_images=palette[1:], duration=durations, loop=0, optimize=True)
        if out.tell() < MOST_BYTES:
            return out.getvalue()
    raise SystemExit(f"the pictures need {out.tell()} bytes even with {colours} colours: show fewer")


def main() -> None:
    """Perform the session and write the GIF."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep", type=Path, help="write the single pictures here, too")
    options = parser.parse_args()
    shots: list[Shot] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with served(place / "runs", place / "server.log", seconds=PATIENT) as url, browser() as chrome:
            context = chrome.new_context(viewport=VIEW, color_scheme="light", device_scale_factor=1)  # pyright: ignore[reportArgumentType]
            page = context.new_page()
            page.set_default_timeout(PATIENT * 1000)
            for shot in session(page, url):
                shots.append(shot)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    shot.image.save(options.keep / f"{len(shots):02d}.png")
                print(f"{len(shots):2d}  {shot.said}", flush=True)
    options.out.write_bytes(assembled(shots))
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
