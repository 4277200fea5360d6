import base64
import io
import math
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import soundfile

from codecctl.evaluate.report.charts import Point, histogram, rate_chart, spectrogram_png
from codecctl.evaluate.report.page import _flac


def test_a_spectrogram_is_a_png_with_the_tone_at_its_frequency() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 2000 * np.arange(16000) / 16000)).astype(np.float32)
    uri, loudest = spectrogram_png(tone)
    png = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (1 + 16000 // 128, 257)
    start = png.index(b"IDAT") + 4
    length = struct.unpack(">I", png[start - 8 : start - 4])[0]
    rows = np.frombuffer(zlib.decompress(png[start : start + length]), np.uint8).reshape(height, 1 + width)[:, 1:]
    assert rows[:, width // 2].argmax() == 256 - 64  # 2 kHz is a quarter of the way up
    assert rows.max() == 255
    assert loudest > 0


def test_charts_are_well_formed_and_label_their_numbers_for_screen_readers() -> None:
    ours = [Point(1, 0.5, "codec, <1> codebook", 0.4, 0.6), Point(4, 0.8, "codec", 0.7, 0.9)]
    chart = rate_chart("STOI & more", ours, [Point(6, 0.9, "Opus"), Point(8, math.nan, "Opus 8")], math.nan)
    svg = ElementTree.fromstring(chart)
    assert svg.get("role") == "img"
    assert "codec: 0.8 at 4.00 kbps" in (svg.get("aria-label") or "")
    assert "nan" not in chart
    assert len(svg.findall("circle")) == 3


def test_a_histogram_of_an_unused_codebook_is_drawn() -> None:
    for hits in (np.zeros(1024, np.int64), np.arange(16)):
        ElementTree.fromstring(histogram("codebook 1", hits))


def test_a_histogram_says_what_its_height_is() -> None:
    texts = [text.text for text in ElementTree.fromstring(histogram("codebook 1", np.full(4, 400))).iter("text")]
    assert {"0", "1", "10", "100", "hits"} <= {*texts}


def test_no_text_lies_over_the_lines_of_a_chart() -> None:
    opus = [Point(6, 0.9, "Opus"), Point(8, 0.95, "Opus")]
    texts = ElementTree.fromstring(rate_chart("STOI", [Point(4, 0.8, "codec")], opus, 0.93)).iter("text")
    assert all(float(text.get("y", "")) > 176 or float(text.get("x", "")) < 46 for text in texts)  # at the axes


def test_the_audio_of_the_page_is_flac() -> None:
    audio = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    back, rate = soundfile.read(io.BytesIO(base64.b64decode(_flac(audio, 16000))), dtype="float32")
    assert rate == 16000
    np.testing.assert_allclose(back, audio, atol=2e-5)
