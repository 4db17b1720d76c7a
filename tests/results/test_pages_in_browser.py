"""The pages in a real browser: seek, hover, threshold, sort, keys, colours; no errors and nothing from the network.

Needs Chromium or Chrome on the machine; `.ci/run` installs it where it may.
"""

from __future__ import annotations

import fractions
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from actloc_jax.metrics.detection_matching import Instances
from actloc_jax.results import RESULTS, pages
from actloc_jax.results.types import FrameLabels, ScoredSegments
from tests import browser as browsers
from tests.data.video_writing import pictures, write_video

pytestmark = pytest.mark.skipif(browsers.find() is None, reason="no Chromium or Chrome on this machine")

NAMES = ["background", "cut <b> & </script>", "pour 日本", "stir"]
CLIP = "clip é #1?%20"
LABELS = np.repeat([0, 1, 2, 0, 3], [10, 20, 30, 20, 20])
OPTIONS = ConfigDict({"background": ("background",), "segment_end": "exclusive", "tiou": (0.5,), "protocol": "sane"})
SCORES = np.array([0.9, 0.2, 0.6, 0.4, 0.05, 0.35])
SEGMENTS = np.array([[1.0, 3.0], [0.5, 2.5], [4.0, 6.0], [5.0, 7.0], [1.5, 2.0], [8.0, 9.5]])
CLASSES = np.array([1, 2, 1, 3, 3, 2])


def write_webm(path: pathlib.Path) -> None:
    """Ten seconds of VP8, which every Chromium plays."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 96, 64, "yuv420p", 5
        for number, picture in enumerate(pictures(100, 64, 96)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, fractions.Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the pages of a video that lies in it, of one that lies elsewhere, and of features alone."""
    root = tmp_path_factory.mktemp("root")
    folder, elsewhere = root / "here" / "run", root / "elsewhere"
    folder.mkdir(parents=True), elsewhere.mkdir()
    write_webm(folder / f"{CLIP}.webm")
    write_video(elsewhere / "distant.mp4", pictures(60), list(range(60)), rate=6)
    media = pages.find_videos([folder, elsewhere])
    confidence = np.linspace(0.5, 1.0, 100).astype(np.float32)
    labels = {"TST": [FrameLabels(CLIP, np.roll(LABELS, 5), confidence)], "DiffAct": [FrameLabels(CLIP, LABELS)]}
    found = {"TriDet": [ScoredSegments("distant", SEGMENTS, CLASSES, SCORES)]}
    truth = {"distant": Instances(np.array([[1.0, 3.0], [4.5, 6.0]]), np.array([1, 1]))}
    frames = {"ASOT": [FrameLabels("frames", LABELS)]}
    segmentation, detection = RESULTS["segmentation"], RESULTS["detection"]
    timelines = [
        *segmentation.video_timelines(labels, NAMES, frame_rate=10.0, options=OPTIONS, truth={CLIP: LABELS}),
        *detection.video_timelines(found, NAMES, frame_rate=0.0, options=OPTIONS, truth=truth),
        *segmentation.video_timelines(frames, NAMES, frame_rate=0.0, options=OPTIONS),
    ]
    timelines = [pages.with_media(timeline, media, config="test") for timeline in timelines]
    pages.write_texts(timelines, epath.Path(folder))
    pages.write_pages(
        timelines, epath.Path(folder), title="Three & <videos>", videos=3, scores={"TriDet": {"mAP": 50.0}}
    )
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    with browsers.running(browsers.find(), tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def clip(browser: browsers.Browser, run: pathlib.Path) -> Iterator[browsers.Page]:
    """The page with a video, once it can be played; it must have had no problems in the end."""
    page = browser.open((run / "timelines" / f"{CLIP}.html").as_uri())
    page.wait("video.readyState >= 1")
    yield page
    page.close()
    assert page.problems == []
    assert all(address.startswith(("file:", "data:", "blob:")) for address in page.requests)


@pytest.fixture
def distant(browser: browsers.Browser, run: pathlib.Path) -> Iterator[browsers.Page]:
    """The page of detections, with pictures in place of the video."""
    page = browser.open((run / "timelines" / "distant.html").as_uri())
    yield page
    page.close()
    assert page.problems == []
    assert all(address.startswith(("file:", "data:", "blob:")) for address in page.requests)


def bar(row: int, position: int) -> str:
    """Selects a segment of a row, both from 1 on."""
    return f".row:nth-child({row}) .segment:nth-child({position})"


def table(page: browsers.Page) -> list[list[str]]:
    code = "[...document.querySelectorAll('#table tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    return page.evaluate(code)


def focused(page: browsers.Page) -> str:
    return page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.id")


def test_a_click_seeks_the_video(clip: browsers.Page) -> None:
    assert clip.evaluate("video.getAttribute('src')") == "../clip%20%C3%A9%20%231%3F%2520.webm"
    clip.click(*clip.place(bar(3, 4)))  # TST: pour, 3.5 to 6.5
    clip.wait("Math.abs(video.currentTime - 5) < 0.05 && !video.seeking")
    assert abs(float(clip.evaluate("document.querySelector('#hand').style.left").rstrip("%")) - 50) < 0.5
    assert clip.evaluate("document.querySelector('#now').textContent").startswith("0:05.0")
    assert "TST: pour 日本" in clip.evaluate("document.querySelector('#now').textContent")
    clip.click(*clip.place("#table tbody tr:last-child td:nth-child(3) button"))
    clip.wait("Math.abs(video.currentTime - 8.5) < 0.05")


def test_the_page_follows_the_video(clip: browsers.Page) -> None:
    clip.evaluate("video.play()")
    clip.wait("now > 0.3")
    clip.evaluate("video.pause()")
    assert float(clip.evaluate("document.querySelector('#axis').getAttribute('aria-valuenow')")) > 0.3


def test_a_video_longer_than_its_timeline_lengthens_it(clip: browsers.Page) -> None:
    clip.evaluate("duration = 4, drawAxis(), drawRows(), video.onloadedmetadata()")
    assert clip.evaluate("duration") == pytest.approx(10.0, abs=0.2)
    assert float(clip.evaluate("document.querySelector('#axis').getAttribute('aria-valuemax')")) > 9
    assert clip.evaluate(f"document.querySelector('{bar(1, 2)}').style.left").startswith("min(10%")


def test_zoom_widens_the_timeline_around_the_position(clip: browsers.Page) -> None:
    clip.evaluate(
        "seek(5), (zoom => { zoom.value = 3; zoom.dispatchEvent(new Event('input')); })"
        "(document.querySelector('#zoom'))"
    )
    inner, outer, left = clip.evaluate(
        "[document.querySelector('#inner').clientWidth, ...(node => [node.clientWidth, node.scrollLeft])"
        "(document.querySelector('#scroller'))]"
    )
    assert inner == pytest.approx(8 * outer, rel=0.05)
    assert left + outer / 2 == pytest.approx(inner / 2, rel=0.05)
    assert clip.evaluate("document.querySelector('#zoom').getAttribute('aria-valuetext')") == "8.0 times"


def test_a_bar_says_what_it_is_when_pointed_at(clip: browsers.Page) -> None:
    clip.move(*clip.place(bar(3, 3)))
    clip.wait("!document.querySelector('#tip').hidden")
    parts = clip.evaluate("[...document.querySelector('#tip').children].map(node => node.textContent)")
    assert parts == ["cut <b> & </script>", "0:01.50 to 0:03.50 (2.00 s)", "score 0.624", "TST"]
    label = clip.evaluate(f"document.querySelector('{bar(3, 3)}').getAttribute('aria-label')")
    assert label == "cut <b> & </script>, 0:01.50 to 0:03.50, score 0.624"
    clip.move(5, 5)
    clip.wait("document.querySelector('#tip').hidden")


def test_a_higher_threshold_shows_fewer_detections(distant: browsers.Page) -> None:
    shown = "document.querySelectorAll('.row:nth-child(2) .segment').length"
    assert distant.evaluate(shown) == np.count_nonzero(SCORES >= 0.9 / 3)
    for minimum, count in ((0.0, 6), (0.5, 2), (0.9, 1)):
        distant.evaluate(
            "(() => { const slider = document.querySelector('#controls label:last-child input');"
            f"slider.value = {minimum}; slider.dispatchEvent(new Event('input')); }})()"
        )
        assert distant.evaluate(shown) == count
        assert len(table(distant)) == count + 2, "the true ones stay"
        said = distant.evaluate("document.querySelector('#controls label:last-child').textContent")
        assert f"{count} of 6 segments" in said


def test_the_slider_moves_by_keys(distant: browsers.Page) -> None:
    distant.evaluate("document.querySelector('#controls label:last-child input').focus()")
    distant.press("End")
    assert len(table(distant)) == 3
    distant.press("Home")
    assert len(table(distant)) == 8


def test_detections_that_overlap_have_lanes_with_the_best_on_top(distant: browsers.Page) -> None:
    distant.evaluate("rows[1].minimum = 0, drawRows()")
    boxes = distant.evaluate(
        "rows[1].nodes.map(node => [node.segment.score, node.segment.start, node.segment.end, node.offsetTop])"
    )
    top = {score: lane for score, _, _, lane in boxes}
    assert top[0.9] == top[0.6] == top[0.35] < top[0.4] == top[0.2] < top[0.05]
    for one in boxes:
        for other in boxes:
            assert one is other or one[3] != other[3] or one[2] <= other[1] or other[2] <= one[1]


def test_the_table_sorts_both_ways(distant: browsers.Page) -> None:
    distant.evaluate("rows[1].minimum = 0, fillTable()")
    assert [row[2] for row in table(distant)] == sorted(row[2] for row in table(distant)), "by start at first"
    head = "#table th:nth-child(6)"
    distant.click(*distant.place(f"{head} button"))
    ascending = [row[5] for row in table(distant)]
    assert ascending == ["0.0500", "0.200", "0.350", "0.400", "0.600", "0.900", "", ""]
    assert distant.evaluate(f"document.querySelector('{head}').getAttribute('aria-sort')") == "ascending"
    distant.evaluate(f"document.querySelector('{head} button').focus()")
    distant.press("Enter")
    assert [row[5] for row in table(distant)] == [*ascending[5::-1], "", ""], "what has no score stays behind"
    assert distant.evaluate(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    distant.click(*distant.place("#table th:nth-child(2) button"))
    names = [row[1] for row in table(distant)]
    assert names == sorted(names)


def test_keys_reach_every_segment_and_seek(clip: browsers.Page) -> None:
    clip.evaluate("document.querySelector('#axis').focus()")
    clip.press("ArrowRight")
    clip.wait("Math.abs(video.currentTime - 0.5) < 0.05")  # a twentieth of ten seconds
    clip.press("PageUp")
    clip.wait("Math.abs(video.currentTime - 1.5) < 0.05")
    clip.press("Tab")
    assert focused(clip) == "background, 0:00.00 to 0:01.00"
    assert not clip.evaluate("document.querySelector('#tip').hidden")
    clip.press("Escape")
    assert clip.evaluate("document.querySelector('#tip').hidden")
    clip.press("ArrowRight")
    assert focused(clip) == "cut <b> & </script>, 0:01.00 to 0:03.00"
    clip.press("End")
    assert focused(clip) == "stir, 0:08.00 to 0:10.00"
    clip.press("ArrowDown")
    clip.press("ArrowDown")
    assert focused(clip).startswith("stir, 0:08.50 to 0:10.00")
    clip.press("ArrowLeft")
    clip.press("Enter")
    clip.wait("Math.abs(video.currentTime - 6.5) < 0.05")
    clip.press("Tab")
    assert clip.evaluate("document.activeElement.closest('#legend') !== null"), "a row is one stop"
    stops = "[...document.querySelectorAll('.segment')].filter(node => node.tabIndex === 0).length"
    assert clip.evaluate(stops) == 3


def test_the_legend_shows_a_class_alone(clip: browsers.Page) -> None:
    clip.click(*clip.place("#legend button:nth-child(3)"))
    assert {row[1] for row in table(clip)} == {"pour 日本"}
    bright = "new Set([...document.querySelectorAll('.segment:not(.dim)')].map(node => node.segment.label)).size"
    assert clip.evaluate(bright) == 1
    clip.evaluate("document.querySelector('#legend [aria-pressed=true]').click()")
    assert len(table(clip)) == 16


def test_a_video_that_lies_elsewhere_is_shown_in_pictures(distant: browsers.Page) -> None:
    assert distant.evaluate("video.hidden && !document.querySelector('#stills').hidden")
    assert distant.evaluate("document.querySelectorAll('#strip button').length") == 24
    distant.wait("document.querySelector('#still').naturalWidth > 0")
    distant.evaluate("seek(9.9)")
    current = "[...document.querySelector('#strip').children].findIndex(node => node.hasAttribute('aria-current'))"
    assert distant.evaluate(current) == 23
    distant.click(*distant.place("#strip button:nth-child(7)"))
    assert distant.evaluate("now") == pytest.approx(2.67, abs=0.25)


def test_a_video_that_is_gone_is_named(browser: browsers.Browser, run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.html"
    page.write_bytes((run / "timelines" / f"{CLIP}.html").read_bytes())
    opened = browser.open(page.as_uri())
    opened.wait("video.hidden")
    assert "clip é #1?%20.webm is not there" in opened.evaluate("document.querySelector('#trouble').textContent")
    opened.click(*opened.place(bar(1, 3)))
    assert opened.evaluate("now") == pytest.approx(4.5, abs=0.05), "the timeline works without it"
    opened.close()


def test_labels_without_frame_rate_are_counted_in_frames(browser: browsers.Browser, run: pathlib.Path) -> None:
    page = browser.open((run / "timelines" / "frames.html").as_uri())
    assert page.evaluate("document.querySelector('#player').hidden")
    assert [row[2:5] for row in table(page)][:2] == [["0", "9", "10"], ["10", "29", "20"]]
    page.evaluate("seek(29.6)")
    assert page.evaluate("document.querySelector('#now').textContent").startswith("frame 30")
    assert page.problems == []
    page.close()


def test_the_index_leads_to_the_pages_and_sorts(browser: browsers.Browser, run: pathlib.Path) -> None:
    page = browser.open((run / "index.html").as_uri())
    names = "[...document.querySelectorAll('#videos-head ~ .scroll tbody tr')].map(row => row.cells[0].textContent)"
    assert page.evaluate(names) == [CLIP, "distant", "frames"]
    assert page.evaluate("document.querySelectorAll('.strip').length") == 6
    assert page.evaluate("[...document.querySelectorAll('.strip')].every(node => node.children.length)")
    for expected in ([CLIP, "distant", "frames"], ["frames", "distant", CLIP]):
        page.click(*page.place("#videos-head ~ .scroll th:nth-child(1) button"))
        assert page.evaluate(names) == expected
    page.evaluate("document.querySelector('td a[href*=clip]').click()")
    page.wait("document.readyState === 'complete' && document.querySelector('#home a') !== null")
    assert page.problems == []
    page.evaluate("document.querySelector('#home a').click()")
    page.wait("location.pathname.endsWith('index.html')")
    page.close()


@pytest.mark.parametrize("name", ["index.html", f"timelines/{CLIP}.html", "timelines/distant.html"])
def test_pages_follow_light_and_dark_and_fit_a_telephone(
    browser: browsers.Browser, run: pathlib.Path, name: str
) -> None:
    brightness = {}
    for dark in (False, True):
        page = browser.open((run / name).as_uri(), dark=dark, width=390, height=800)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("getComputedStyle(document.body).color")
        brightness[dark] = [sum(map(int, text[4:-1].split(","))) for text in (colour, ink)]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.problems == []
        page.close()
    assert brightness[False][0] > 700 > 150 > brightness[False][1]
    assert brightness[True][0] < 150 < 600 < brightness[True][1]
