"""The page in a real browser: no error, no request, keys that move, nothing wider than a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dynfocus_video.clips import demo_clip
from dynfocus_video.compress import Compression, compress_video
from dynfocus_video.present import report_of
from dynfocus_video.report import render_report
from dynfocus_video.sampling import Sampling

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)"),
]

PROBE = """
<script>
window.addEventListener("load", () => {
  const plot = document.getElementById("timeline"), strip = document.getElementById("strip");
  const text = (id) => document.getElementById(id).textContent;
  const press = (where, key) =>
    where.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const now = () => Number(plot.getAttribute("aria-valuenow"));
  const paint = document.getElementById("paint"), found = { seen: [] };
  const coloured = () => {
    const blank = document.createElement("canvas");
    [blank.width, blank.height] = [paint.width, paint.height];
    return blank.toDataURL() !== paint.toDataURL();
  };
  found.first = now();
  const keys = [
    [plot, "Home"], [plot, "ArrowRight"], [plot, "ArrowDown"], [strip, "ArrowUp"], [strip, "End"], [plot, "ArrowLeft"],
  ];
  for (const [where, key] of keys) {
    press(where, key);
    found.seen.push(now());
  }
  press(plot, "Home");
  found.painted = coloured();
  document.querySelector("#levels input[value='-1']").click();
  found.plain = !coloured();
  document.querySelector("#levels input[value='1']").click();
  found.repainted = coloured();
  document.querySelector("#strip button[data-frame='3']").click();
  found.clicked = [now(), text("clock"), text("n-tokens"), text("why")];
  const box = plot.getBoundingClientRect();
  plot.setPointerCapture = () => {};
  plot.dispatchEvent(new PointerEvent("pointerdown", { clientX: box.left + 0.501 * box.width, pointerId: 1 }));
  found.pointed = now();
  found.tabbable = document.querySelectorAll("#strip button[tabindex='0']").length;
  found.wide = document.documentElement.scrollWidth;
  found.window = window.innerWidth;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""

# A window cannot be narrower than 500 pixels, a frame can.
WRAPPER = """
<!doctype html><title>wrapper</title><link rel="icon" href="data:,">
<script>window.addEventListener("message", (event) => { document.body.dataset.found = event.data; });</script>
<body><iframe src="report.html" style="width: {width}px; height: 900px; border: 0"></iframe></body>
"""


@pytest.fixture(scope="module")
def result() -> Compression:
    return compress_video(demo_clip("bikes.mp4"), question="</script><b>?", sampling=Sampling(fps=5.0))


def browse(page: Path) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what the console said."""
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--no-first-run"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=4000"]
    command += ["--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_works(width: int, result: Compression, tmp_path: Path) -> None:
    page = render_report(report_of(result, "<img src=x>.mp4")).replace("</body>", PROBE + "</body>")
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    (tmp_path / "wrapper.html").write_text(WRAPPER.replace("{width}", str(width)), encoding="utf-8")
    document, console = browse(tmp_path / "wrapper.html")
    assert console == []
    raw = re.search(r'data-found="(.*?)"', document)
    assert raw is not None
    found = json.loads(raw[1].replace("&quot;", '"').replace("&lt;", "<").replace("&amp;", "&"))
    focus = result.video.selection.focus_index[0].tolist()
    best = int(result.video.selection.prototype_index[0, result.video.selection.scores[0].argmax()])
    assert found["first"] == best
    later = next(index for index in focus if index > 1)
    earlier = max((index for index in focus if index < later), default=later)
    assert found["seen"] == [0, 1, later, earlier, 49, 48]
    assert found["painted"] == (0 in focus)
    assert found["plain"]
    assert found["repainted"] == (0 in focus)
    assert found["clicked"][:3] == [3, "0:00.6", str(int(result.tokens_per_frame[3]))]
    assert found["clicked"][3].startswith("Kept")
    assert found["pointed"] == 25
    assert found["tabbable"] == 1
    assert found["wide"] <= found["window"] == width


def test_the_probe_sees_errors(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<body><script>undefinedName()</script></body>")
    assert any("undefinedName" in line for line in browse(page)[1])
