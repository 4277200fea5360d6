"""The page of `export --to web` in a headless Chromium, with the starter and onnxruntime-web."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from codecctl.bitstream import PackedReader, PackedWriter
from codecctl.cli.main import run
from codecctl.export.web import write_web
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.load import Codec, save_codec
from codecctl.model import codec as model
from tests.browser import headless, until
from tests.conftest import TINY_REFINED
from tests.export.server import served
from tests.export.ties import check_equal_but_for_ties

pytestmark = pytest.mark.slow

STATUS = "document.getElementById('status').textContent"
HEADER = ("fingerprint", "sample_rate", "hop_length", "codebook_sizes")
MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # it beeps


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    downloads = tmp_path_factory.mktemp("downloads")
    with headless(*MICROPHONE, downloads=downloads) as session:
        session.downloads = downloads
        yield session


@pytest.fixture(scope="module")
def loaded(site: Path, browser: Any) -> Iterator[Any]:
    """A window with the page and the codec loaded, which takes seconds; other pages have windows of their own."""
    with served(site) as url:
        browser.get(url)
        until(browser, f"{STATUS} === 'Ready.'")
        yield browser.current_window_handle
        browser.switch_to.window(browser.window_handles[0])
        fetched = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert fetched
        assert all(name.startswith(url) for name in fetched)


@pytest.fixture
def opened(browser: Any, loaded: str) -> Iterator[Any]:
    """The page, with the focus at its start; at the end it must have met no error."""
    browser.switch_to.window(loaded)
    browser.execute_script(f"{STATUS} = ''; document.body.tabIndex = -1; document.body.focus()")
    yield browser
    assert browser.get_log("browser") == []


@pytest.fixture
def other_window(browser: Any, loaded: str) -> Iterator[Any]:
    browser.switch_to.new_window("tab")
    yield browser
    browser.close()
    browser.switch_to.window(loaded)


def element(browser: Any, name: str) -> Any:
    return browser.find_element("id", name)


def choose_file(browser: Any, path: Path) -> str:
    """Opens a file; what the page says when it is done."""
    element(browser, "file").send_keys(str(path))
    return str(until(browser, f"/decoded in/.test({STATUS}) && {STATUS}"))


def saved(browser: Any, name: str) -> bytes:
    """The file that the page saves."""
    from selenium.webdriver.support.ui import WebDriverWait

    path: Path = browser.downloads / name
    path.unlink(missing_ok=True)
    element(browser, "save").click()
    WebDriverWait(browser, 60, 0.05).until(lambda _: path.is_file())
    return path.read_bytes()


def encode(source: Path, target: Path) -> None:
    """As the command line does."""
    assert run(["encode", str(source), "-o", str(target)]) == 0


def test_the_folder_is_whole_and_names_its_model(site: Path) -> None:
    facts = json.loads((site / "codec.json").read_text())
    assert facts["fingerprint"] == Codec.load("starter", "cpu").fingerprint
    for name, file in facts["files"].items():
        content = (site / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["n_bytes"], file["sha256"])
    assert (site / "runtime" / "LICENSE").is_file()
    assert (site / "encoder.onnx").stat().st_size < 6e6  # the starter's weights are rounded: 8 bits keep its codes


def test_codes_are_those_of_the_command_line_and_take_less_time_than_the_sound(
    opened: Any, speech_files: list[Path], tmp_path: Path
) -> None:
    page, ours = tmp_path / "page.cctl", tmp_path / "ours.cctl"
    heard, spent = 0.0, np.zeros(2)
    for source in speech_files[::3]:
        samples, rate = soundfile.read(source, dtype="float32")
        soundfile.write(tmp_path / "speech.wav", samples, rate)
        opened.execute_script(f"{STATUS} = ''")
        status = choose_file(opened, tmp_path / "speech.wav")
        page.write_bytes(saved(opened, "speech.cctl"))
        encode(source, ours)
        check_equal_but_for_ties(page, ours, torch.from_numpy(samples))
        spent += [float(seconds) for seconds in re.findall(r"in ([\d.]+) s", status)]  # to encode, to decode
        heard += len(samples) / rate
    assert max(spent) < heard


def test_fewer_codebooks_are_chosen_by_key_saved_and_opened_again(
    opened: Any, speech_files: list[Path], tmp_path: Path
) -> None:
    choose_file(opened, speech_files[1])
    codebooks = element(opened, "codebooks")
    assert codebooks.get_attribute("aria-valuetext") == "8 of 8, 4.05 kbps"
    codebooks.send_keys("\ue012" * 5)  # arrow left
    assert codebooks.get_attribute("aria-valuetext") == "3 of 8, 1.55 kbps"
    until(opened, "document.getElementById('working').hidden")
    content = saved(opened, f"{speech_files[1].stem}.cctl")
    seconds = soundfile.info(speech_files[1]).duration
    assert f"{8 * len(content) / seconds / 1000:.2f} kbps" in element(opened, "facts").text
    assert f"{len(content):,} bytes" in element(opened, "facts").text
    again = tmp_path / "again.cctl"
    again.write_bytes(content)
    opened.execute_script(f"{STATUS} = ''")
    choose_file(opened, again)
    assert (codebooks.get_attribute("max"), codebooks.get_attribute("value")) == ("3", "3")
    assert not opened.find_element("css selector", "[value=original]").is_enabled()
    assert saved(opened, "again.cctl") == content
    assert run(["decode", str(again), "-o", str(tmp_path / "again.wav")]) == 0
    encode(speech_files[1], tmp_path / "all.cctl")
    with PackedReader(again) as reader, PackedReader(tmp_path / "all.cctl") as all_reader:
        assert (reader.read() != all_reader.read()[:3]).any(axis=0).sum() <= 2  # ties, see above
        with PackedWriter(tmp_path / "ours.cctl", **{name: getattr(reader.header, name) for name in HEADER}) as writer:
            writer.write(reader.read())
            writer.n_samples = reader.header.n_samples
    assert (tmp_path / "ours.cctl").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"no sound", "notes.txt: this browser cannot read it as audio"),
        ("cut.cctl", b"CCTL\1\0", "cut.cctl: this is no whole .cctl file"),
    ],
)
def test_what_cannot_be_opened_is_one_line(
    opened: Any, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    element(opened, "file").send_keys(str(tmp_path / name))
    assert until(opened, "document.getElementById('error').textContent") == message


def test_a_file_can_be_dropped(opened: Any, site: Path) -> None:
    opened.execute_async_script(
        """
        const done = arguments[0];
        fetch("example.flac").then((response) => response.blob()).then((blob) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "dropped.flac"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
          done();
        });
        """
    )
    assert until(opened, f"/decoded in/.test({STATUS}) && {STATUS}").startswith("dropped.flac: 4.91 s")


def test_a_recording_is_encoded(opened: Any) -> None:
    record = element(opened, "record")
    record.click()
    until(opened, "document.getElementById('record').textContent === 'Stop (1 s)'")
    record.click()
    status = until(opened, f"/decoded in/.test({STATUS}) && {STATUS}")
    seconds = float(re.fullmatch(r"recording: ([\d.]+) s, .*", status)[1])  # type: ignore[index]
    assert 0.5 < seconds < 30
    frames = re.fullmatch(r"Frame 1 of (\d+): (\d+ ?){8}", element(opened, "frame").text)
    assert frames
    rounding = 0.05  # of the seconds that are shown
    assert math.ceil((seconds - rounding) * 50) <= int(frames[1]) <= math.ceil((seconds + rounding) * 50)


def test_all_is_done_from_the_keyboard(opened: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(key: str, *, shifted: bool = False) -> str:
        """What has the focus after it."""
        keys = ActionChains(opened)
        (keys.key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT) if shifted else keys.send_keys(key)).perform()
        return str(opened.execute_script("return document.activeElement.id || document.activeElement.value"))

    assert [press(Keys.TAB) for _ in range(3)] == ["file", "record", "example"]
    assert opened.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(Keys.ENTER)
    until(opened, f"/decoded in/.test({STATUS})")
    order = ["play", "position", "decoded", "codebooks", "save"]
    assert [press(Keys.TAB) for _ in order] == order
    assert [press(Keys.TAB, shifted=True) for _ in range(2)] == ["codebooks", "decoded"]
    assert press(Keys.ARROW_DOWN) == "original"
    assert press(Keys.TAB, shifted=True) == "position"
    press(Keys.END)
    assert "4.91 of 4.91 s" in element(opened, "clock").text
    press(Keys.HOME)
    assert press(Keys.TAB, shifted=True) == "play"
    press(Keys.SPACE)
    until(opened, "Number(document.getElementById('position').value) > 0.1")
    assert element(opened, "play").text == "Pause"


def test_versions_play_in_step_and_a_switch_keeps_the_instant(opened: Any) -> None:
    element(opened, "example").click()
    until(opened, f"/decoded in/.test({STATUS})")
    element(opened, "play").click()  # a gesture: from now on the page may make sound
    before, after, later, spread = opened.execute_async_script(
        """
        const done = arguments[0];
        import("./player.js").then(async ({ Player }) => {
          const starts = [], start = AudioBufferSourceNode.prototype.start;
          AudioBufferSourceNode.prototype.start = function (at, offset) {
            starts.push(at - offset);
            return start.call(this, at, offset);
          };
          const player = new Player(16000), until = (condition) => new Promise((resolve) => {
            const look = () => condition() ? resolve() : requestAnimationFrame(look);
            look();
          });
          player.set("a", new Float32Array(80000));
          player.set("b", new Float32Array(80000));
          player.select("a");
          await player.play();
          await until(() => player.position > 0.1);
          const before = player.position;
          player.select("b");
          player.set("b", new Float32Array(80000)); // as decoded with other codebooks
          const after = player.position;
          await until(() => player.position > after);
          done([before, after, player.position, Math.max(...starts) - Math.min(...starts)]);
          AudioBufferSourceNode.prototype.start = start;
          player.pause();
        });
        """
    )
    assert 0.1 < before <= after < later < 5
    assert spread < 1e-9  # all sources have the same instant at the same time


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_in_both_schemes_and_names_its_controls(opened: Any, scheme: str) -> None:
    size = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        element(opened, "example").click()
        until(opened, f"/decoded in/.test({STATUS})")
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
        red = int(opened.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
        assert (red < 64) == (scheme == "dark")
        controls = opened.find_elements("css selector", ":is(button, input, canvas, a):not([hidden] *)")
        assert [each.get_attribute("outerHTML") for each in controls if not each.accessible_name] == []
        picture = element(opened, "picture").accessible_name
        assert re.fullmatch(
            r"Picture of the codes: .* 8 codebooks, .* frames 1 to \d+ of 246, 0\.00 to [\d.]+ s\.", picture
        )
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("tiny_codec", [TINY_REFINED], indirect=True)
def test_a_model_in_float32_whose_decoder_is_late_gives_the_codes_and_the_sound_of_torch(
    other_window: Any, tiny_codec: model.Codec, package: Path, tmp_path: Path, speech: Tensor
) -> None:
    save_codec(tiny_codec, tmp_path / "codec.pt")
    write_web(Checkpoint.read(tmp_path / "codec.pt"), tmp_path / "site", runtime=package)
    codec = Codec.load(tmp_path / "codec.pt", "cpu")
    audio = speech[..., 8000 : 8000 + 33 * codec.hop_length - 1]  # chunks have 32 frames
    with served(tmp_path / "site") as url:
        other_window.get(f"{url}codec.json")
        codes, *decoded = other_window.execute_async_script(
            """
            const [samples, counts, done] = arguments, worker = new Worker("worker.js", { type: "module" });
            let id = 0;
            const run = (job, data) => new Promise((resolve) => {
              worker.onmessage = ({ data }) => { if (data.done === undefined) resolve(data.result ?? data.error); };
              worker.postMessage({ id: ++id, job, ...data });
            });
            (async () => {
              await run("load");
              const codes = await run("encode", { samples: Float32Array.from(samples) }), results = [];
              for (const n of counts) {
                results.push(await run("decode", { codes: codes.slice(0, n), nSamples: samples.length }));
              }
              worker.terminate();
              done([codes.map((row) => [...row]), ...results.map((result) => [...result])]);
            })();
            """,
            audio.flatten().tolist(),
            [1, codec.n_codebooks],
        )
    expected = codec.encode(audio)
    assert np.array_equal(codes, expected[0].numpy())
    for k, samples in zip((1, codec.n_codebooks), decoded, strict=True):
        ours = codec.decode(expected[:, :k], length=audio.shape[-1])
        np.testing.assert_allclose(samples, ours.flatten().numpy(), rtol=0, atol=1e-4)


def test_files_of_two_exports_are_not_mixed(other_window: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "mixed")
    content = bytearray((site / "encoder.onnx").read_bytes())
    content[-1] ^= 1
    (tmp_path / "mixed" / "encoder.onnx").write_bytes(content)
    with served(tmp_path / "mixed") as url:
        other_window.get(url)
        error = until(other_window, "document.getElementById('error').textContent")
    assert error == "encoder.onnx: is not the file of this export; copy the folder again"
