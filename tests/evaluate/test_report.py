import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from codecctl.config.schema import ValidateConfig
from codecctl.evaluate.evaluation import measure
from codecctl.evaluate.intervals import Mean
from codecctl.evaluate.metrics.table import METRICS
from codecctl.evaluate.report.page import write_report
from codecctl.evaluate.utterances import ReferenceUtterance
from codecctl.evaluate.verdict import compare, verdict_of
from codecctl.model.codec import Codec
from tests.browser import headless, until
from tests.evaluate.conftest import renderer_of

pytestmark = pytest.mark.slow

CONFIG = ValidateConfig(metrics=(), opus_kbps=(6.0,), require={"snr_db": 2.0, "stoi": 0.9})


ODD_NAME = '<b>odd</b> & "quoted" \udce9'  # as the name of a file that is not UTF-8
REVERSED = "\u202ereversed\x07"
CARD: dict[str, Any] = {"name": "best.pt", "fingerprint": "0123456789abcdef", "step": 300}


@pytest.fixture(scope="module")
def page(speaking: Codec, clips: list[ReferenceUtterance], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on four clips, one of them with names that need escaping."""
    odd = replace(clips[0], id=ODD_NAME, speaker=REVERSED)
    utterances = [odd, clips[4], clips[8], clips[9]]
    renderer = renderer_of(speaking, CONFIG, against=speaking, parts=True)
    result = measure(renderer, utterances, CONFIG, source="four clips")
    requirements = [compare(result, name, limit) for name, limit in CONFIG.require.items()]
    verdict = verdict_of(result)
    folder = tmp_path_factory.mktemp("report")
    return write_report(folder, result, requirements, verdict, renderer, utterances, **CARD)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_complete_and_uses_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(text)
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.tags:
        link = attributes.get("href") or attributes.get("src")
        assert link is None or link.startswith("data:") or link.removeprefix("#") in ids, (tag, link)
    assert not re.search(r"https?://|@import|url\(|fetch\(", text)
    assert "missed: stoi was not measured" in text
    assert [p.name for p in page.parent.iterdir()] == ["index.html"]


def test_names_from_outside_change_neither_markup_nor_direction(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<b>odd</b>" not in text
    assert "<bdi>&lt;b&gt;odd&lt;/b&gt; &amp; &#34;quoted&#34; \\udce9</bdi>" in text
    assert not set("\u202e\x07") & set(text)
    assert r"<bdi>\u202ereversed\x07</bdi>" in text


def test_every_image_and_control_has_a_name(page: Path) -> None:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    for tag, attributes in reader.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg" or (tag == "input" and attributes["type"] == "range"):
            assert attributes["aria-label"]
    assert next(tag for tag, _ in reader.tags if tag in ("h1", "h2")) == "h1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, where there is one."""
    with headless() as session:
        yield session


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get(page.as_uri())
    return browser


def test_a_player_keeps_its_position_when_the_version_is_switched(opened: Any) -> None:
    opened.find_element("css selector", "[data-player] button.play").click()
    # The rest runs in the page: on a busy machine the clip would be over before the driver comes to look.
    heard = opened.execute_async_script(
        """
        const done = arguments[0], box = document.querySelector("[data-player]");
        const place = () => Number(box.querySelector("input[type=range]").value);
        const until = (condition) => new Promise((resolve) => {
          const look = () => condition() ? resolve() : requestAnimationFrame(look);
          look();
        });
        (async () => {
          await until(() => place() > 0.2);
          const before = place();
          box.querySelector("input[value=codec]").click();
          const after = place(), state = box.dataset.state;
          await until(() => place() !== after);
          const later = place();
          box.querySelector("button.play").click();
          done([before, after, later, state, box.dataset.state]);
        })();
        """
    )
    before, after, later, *states = heard
    assert 0.2 < before <= after < later  # it goes on, not from the start
    assert states == ["playing", "paused"]
    assert opened.get_log("browser") == []


def test_a_switch_plays_the_other_version_from_the_same_sample(opened: Any) -> None:
    """The page's own player, run by an offline context: the codec's samples follow the original's without a gap."""
    heard = opened.execute_async_script(
        """
        const done = arguments[0];
        const tracks = tracksOf(document.querySelector("[data-player]").dataset.player);
        const player = new Player({ original: tracks.original, codec: tracks.codec });
        (async () => {
          context = new OfflineAudioContext(1, 16000, 16000);
          context.resume = async () => {};
          await player.play();
          context.suspend(0.5).then(() => {
            player.select("codec");
            OfflineAudioContext.prototype.resume.call(context);
          });
          const made = (await context.startRendering()).getChannelData(0);
          const [a, b] = ["original", "codec"].map((name) => player.buffers[name].getChannelData(0));
          const late = Math.round(0.02 * 16000);
          const error = (signal, first, last) => {
            let sum = 0, power = 0;
            for (let i = first; i < last; i++) {
              sum += (made[i] - signal[i - late]) ** 2;
              power += signal[i - late] ** 2;
            }
            return sum / power;
          };
          done([error(a, late, 7900), error(b, 9000, 16000)]);
        })().catch((error) => done(String(error)));
        """
    )
    assert heard == [pytest.approx(0, abs=1e-3), pytest.approx(0, abs=1e-3)]


def test_tables_sort_by_number_in_both_directions(opened: Any) -> None:
    column = "[...document.querySelector('#systems tbody').rows].map((row) => row.cells[1].textContent)"
    heading = opened.find_element("css selector", "#systems th:nth-child(2) button")
    heading.click()
    falling = [float(text) for text in opened.execute_script(f"return {column}") if text]
    heading.send_keys("\ue007")  # Enter: the keyboard does it too
    rising = [float(text) for text in opened.execute_script(f"return {column}") if text]
    assert falling == sorted(falling, reverse=True)
    assert rising == sorted(rising)
    assert heading.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"


def test_the_blind_test_counts_answers_and_hides_the_versions(opened: Any) -> None:
    blind = opened.find_element("id", "blind")
    blind.find_element("css selector", "button.next").click()
    blind.find_element("css selector", "button.play").click()
    until(opened, "Number(document.querySelector('#blind input[type=range]').value) > 0.1")
    assert [r.get_attribute("value") for r in blind.find_elements("css selector", "input[type=radio]")] == [
        "A",
        "B",
        "X",
    ]
    blind.find_element("css selector", "button.answer[value=A]").click()
    assert re.search(r"X was [AB]\. [01] of 1 right", blind.find_element("css selector", "[role=status]").text)
    assert not blind.find_element("css selector", "button.answer").is_enabled()
    assert opened.get_log("browser") == []


@pytest.fixture(scope="module")
def full_page(speaking: Codec, clips: list[ReferenceUtterance], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with a column for every metric, as wide as such numbers are."""
    renderer = renderer_of(speaking, CONFIG, parts=True)
    result = measure(renderer, clips[:4:3], CONFIG, source="two clips")
    wide = dict.fromkeys(METRICS, Mean(0.891, 0.852, 0.937, 2))
    result = replace(
        result,
        systems=tuple(replace(s, metrics={**wide, **s.metrics}) for s in result.systems),
        groups=tuple(replace(g, metrics={**wide, **g.metrics}) for g in result.groups),
    )
    return write_report(tmp_path_factory.mktemp("full"), result, [], verdict_of(result), renderer, clips[:1], **CARD)


@pytest.mark.parametrize(("width", "fits"), [(1300, True), (390, False)])
def test_tables_fit_a_screen_and_scroll_by_themselves_on_a_phone(
    browser: Any, full_page: Path, width: int, fits: bool
) -> None:
    browser.get(full_page.as_uri())
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wider = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"
    assert (browser.execute_script(f"return {wider}") == 0) == fits
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_has_enough_contrast_in_light_and_dark(opened: Any, mode: str, tmp_path: Path) -> None:
    feature = {"name": "prefers-color-scheme", "value": mode}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    script = """
      const light = (text) => {
        const c = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
        const linear = c.map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
      };
      const ground = light(getComputedStyle(document.body).backgroundColor);
      const contrast = (selector) => {
        const ink = light(getComputedStyle(document.querySelector(selector)).color);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
      };
      return [ground, ...["body", ".lead", "nav a", ".missed", ".passed"].map(contrast)];
    """
    ground, *contrasts = json.loads(json.dumps(opened.execute_script(script)))
    assert (ground > 0.5) == (mode == "light")
    assert min(contrasts) > 4.5  # WCAG 2.2, level AA
    opened.save_screenshot(str(tmp_path / f"{mode}.png"))
    assert opened.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
