"""The page in a real browser: plots are drawn, nothing fails, nothing is requested."""

import json
import re
import shutil
import subprocess

import pytest
from outdim.report import write_report
from report.synthetic import make_run

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")

EVIL = '</script><script>document.title="pwned"</script><img src=x onerror=document.title="pwned">'
PROBE = """
const questions = [
  ["correlate_heat_map", "covariate", "mid_rank"],
  ["detect_parameters", "layer", "block.2.norm"],
  ["correlate_size_and_shape_of_the_values", "statistic", "std"],
];
for (const [figure, name, value] of questions) {
  const plot = document.getElementById(figure);
  const select = plot.closest("figure").querySelector(`select[name=${name}]`);
  select.value = value;
  select.dispatchEvent(new Event("change"));
  const traces = plot.data.filter((trace) => trace.visible === true);
  const shown = traces.map((trace) => trace.meta[name]);
  plot.dataset.shown = [...new Set(shown)].join();
}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    make_run(path, model=EVIL, tokens={10: EVIL})
    return write_report(path)


def browse(page, *arguments, profile):
    """Open a page without a network; return the DOM, the console's lines and what was requested."""
    log = profile / "net.json"
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            f"--user-data-dir={profile / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--log-net-log={log}",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            *arguments,
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), console, requested(log)


def requested(log):
    """URLs that the page asked for; the browser's own errands have no origin."""
    text = log.read_text()
    events = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")
    asked = [event.get("params") or {} for event in events["events"]]
    return {
        params["url"]
        for params in asked
        if params.get("initiator", "not an origin") != "not an origin"
        and re.match(r"(https?|wss?|ftp)://", params.get("url", ""))
    }


def probed(page, name, script, body=""):
    """Copy the page without its policy and with a script of the test, run when all is drawn."""
    script = f"""const drawn = setInterval(() => {{
      if (![...document.querySelectorAll(".plot")].every((plot) => plot.data)) return;
      clearInterval(drawn);
      {script}
    }}, 20);"""
    source = page.read_text(encoding="utf-8")
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", source)
    copy = page.with_name(name)
    copy.write_text(source.replace("</body>", f"{body}<script>{script}</script></body>"), "utf-8")
    return copy


def test_plots_are_drawn_and_nothing_is_requested(page, tmp_path):
    dom, console, urls = browse(page, profile=tmp_path)
    assert console == []
    assert urls == set()
    for figure in (
        "correlate_pearsons_r",
        "correlate_heat_map",
        "detect_parameters",
        "token_frequency",
    ):
        start = dom.index(f'id="{figure}"')
        assert "main-svg" in dom[start : start + 3_000], figure
    assert 'class="js"' in dom
    assert dom.count('class="main-svg"') >= 8
    assert re.search(r"<image [^>]*href=\"data:image/png", dom), "the heat map has no cells"
    assert not re.search(r"<title>\s*pwned", dom)


def test_choices_change_what_is_drawn_and_still_request_nothing(page, tmp_path):
    dom, console, urls = browse(probed(page, "probed.html", PROBE), profile=tmp_path)
    assert console == []
    assert urls == set()
    assert sorted(re.findall(r'data-shown="([^"]*)"', dom)) == ["block.2.norm", "mid_rank", "std"]
    titles = re.findall(r'<text class="ytitle"[^>]*>([^<]*)</text>', dom)
    assert "standard deviation of h" in titles


def test_a_request_would_be_noticed(page, tmp_path):
    address = "http://example.invalid/pixel.png"
    copy = probed(page, "leaky.html", "", body=f'<img src="{address}" alt="">')
    assert browse(copy, profile=tmp_path)[2] == {address}


@pytest.mark.parametrize("width", [1280, pytest.param(500, marks=pytest.mark.slow)])
def test_nothing_is_wider_than_the_screen(page, tmp_path, width):
    root = "document.documentElement"
    script = f"""
    document.body.dataset.wide = {root}.scrollWidth - {root}.clientWidth;
    document.body.dataset.hints = document.querySelectorAll(".scroll.wide").length;
    """
    copy = probed(page, f"measured{width}.html", script)
    dom, _, _ = browse(copy, f"--window-size={width},2000", profile=tmp_path)
    assert re.search(r'data-wide="(-?\d+)"', dom).group(1) == "0"
    hints = int(re.search(r'data-hints="(\d+)"', dom).group(1))
    assert (hints > 0) == (width < 1280), "a table that scrolls says so, and no other"
