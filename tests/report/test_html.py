import base64
from html import parser

import numpy as np
import pytest

from tff_leak import errors
from tff_leak.report import figures, html


def summary(**changes):
    """Pooled figures of a successful attack on one class, with changes."""
    values = {
        "attack": 0.76,
        "others": None,
        "share": 0.98,
        "control": 0.2,
        "control_share": 0.02,
        "reference": 0.83,
        "floor": 0.51,
        "class_mean": 0.79,
        "recovered": 0.78,
        "closest": 0.7,
        "strict": (0.6, "closest_class_images"),
        "targets": [3],
        "reached_count": 1,
        "reached_all": True,
    } | changes
    control = {"judge_share": values["control_share"], "ssim": values["control"]}
    return {
        "targets": values["targets"],
        "attack": {
            "judge_share": values["share"],
            "ssim": values["attack"],
            "ssim_to_others": values["others"],
        },
        "control": None if values["control"] is None else control,
        "reference": {"ssim": values["reference"]},
        "floor": {"value": values["floor"], "source": "other_class_means"}
        | dict(zip(("strict_value", "strict_source"), values["strict"], strict=True)),
        "class_mean_similarity": values["class_mean"],
        "recovered": values["recovered"],
        "recovered_closest": values["closest"],
        "reached_count": values["reached_count"],
        "reached_all": values["reached_all"],
    }


def report(**changes):
    fields = {
        "title": "Client GAN",
        "verdict": "One.\n\nTwo.",
        "verdict_good": "leak",
        "facts": [("recovered", 0.781234), ("epsilon", None)],
        "sections": [],
        "configuration": {"rounds": 100, "rate": 1e-5, "targets": [3, 8]},
    }
    return html.Report(**(fields | changes))


class Page(parser.HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_leak_with_the_class_mean_beside_it():
    text, kind = html.verdict(summary(), nouns=("digit", "digits"))
    assert kind == "leak"
    assert "reconstructed recognisable images of the victim's digit 3." in text
    assert "Recovered 0.78" in text
    assert "other real images of the class reach 0.83" in text
    assert "reaches 0.51 (the means of other classes)" in text
    assert "98% of the samples to the right digit" in text
    assert "2% so, and similarity is 0.20" in text
    assert "would score 0.79, and the attack does not exceed it" in text
    assert "not proof of individual records" in text


def test_attack_above_the_class_mean_claims_no_more_than_that():
    text, kind = html.verdict(summary(class_mean=0.6, others=0.77))
    assert kind == "leak"
    assert "less than the attack" in text
    assert "by itself is no proof of individual records" in text
    assert "as close to other clients' images (0.77)" in text


def test_several_targets():
    missed = summary(targets=[0, 3, 8], reached_count=1, reached_all=False)
    text, kind = html.verdict(missed)
    assert kind == "partial"
    assert "the victim's classes 0, 3 and 8 in part" in text
    assert "1 of 3 classes are reached" in text


def test_an_attack_that_made_no_step_is_no_verdict():
    text, kind = html.verdict(summary(), steps=0.0)
    assert kind == "undefined"
    assert text.startswith("The attack never began, so that nothing is known of the")
    assert html.verdict(summary(), steps=0.5) == html.verdict(summary())


@pytest.mark.parametrize(
    "changes, kind, expected",
    [
        ({"recovered": 0.31}, "partial", "Recovered 0.31"),
        (
            {"reached_count": 0, "reached_all": False},
            "partial",
            "nearly one picture repeated",
        ),
        (
            {"share": 0.4, "reached_count": 0, "reached_all": False},
            "partial",
            "fewer than the 80%",
        ),
        ({"reached_count": 0, "reached_all": None}, "partial", "not known"),
        ({"control": None}, "partial", "No control was run"),
        ({"control_share": 0.1}, "partial", "says little here"),
        ({"control_share": 0.09}, "leak", "it assigns 9% so"),
        ({"recovered": 0.05}, "partial", "in part"),
        (
            {"recovered": 0.05, "reached_count": 0, "reached_all": False},
            "none",
            "did not reconstruct",
        ),
        # The judge is fooled, but the samples are no closer than what needs no leak.
        ({"recovered": -0.4, "attack": 0.38}, "none", "does not prove"),
        ({"recovered": None, "floor": 0.8}, "undefined", "cannot tell whether"),
    ],
)
def test_verdict_kinds(changes, kind, expected):
    text, found = html.verdict(summary(**changes))
    assert found == kind
    assert expected in text


def test_the_floor_is_named_by_what_sets_it():
    found = summary()
    found["floor"]["source"] = "grand_mean"
    text, _ = html.verdict(found)
    assert "no leak reaches 0.51 (the mean image of all other classes);" in text


def test_another_class_that_comes_as_close_is_named():
    clear, _ = html.verdict(summary())
    assert "of another class" not in clear
    text, _ = html.verdict(summary(closest=-0.1, strict=(0.77, "closest_class_images")))
    assert (
        "but real images of another class come as close (0.77): against the closest "
        "other class recovered is -0.10."
    ) in text
    text, _ = html.verdict(summary(closest=None, strict=(0.8, "closest_class_mean")))
    assert "but the mean of another class comes as close (0.80)" in text
    assert "against the closest other class is not defined." in text
    # Where nothing is recovered at all there is nothing to take back.
    text, _ = html.verdict(summary(recovered=-0.2, closest=-0.5))
    assert "as close (" not in text


def test_wide_figures_take_a_row_each():
    picture = ("a", b"png")
    for wide, expected in ((True, "figures wide"), (False, "figures")):
        section = html.Section("Pictures", figures=[picture], wide=wide)
        page = Page(html.render(report(sections=[section])))
        classes = [a.get("class") for a in page.all("div")]
        assert expected in classes


def test_no_leak_and_undefined_say_nothing_of_individual_records():
    for recovered in (-0.2, None):
        text, _ = html.verdict(summary(recovered=recovered))
        assert "individual records" not in text


def test_scores_leave_a_missing_control_out_of_the_chart():
    values = html.scores(summary(control=None))
    assert values["control"] is None
    page = Page(html.render(report(scores=values)))
    widths = [a["style"] for a in page.all("span") if a.get("class") == "bar"]
    assert widths == [f"width: {x}%" for x in ("83.0", "79.0", "76.0", "51.0")]
    assert [a for a in page.all("li") if a.get("class") == "attack"]


def test_bars_stay_on_the_scale():
    page = Page(html.render(report(scores={"a": -0.1, "b": 1.5})))
    widths = [a["style"] for a in page.all("span") if a.get("class") == "bar"]
    assert widths == ["width: 0.0%", "width: 100.0%"]
    assert "-0.10" in page.text


def test_one_file_with_every_picture_and_nothing_from_outside():
    pictures = [
        figures.png(figures.curves({"a": ([1, 2], [0, k])}, "loss")) for k in (1, 2)
    ]
    sections = [
        html.Section("Pictures", figures=[("attack", pictures[0])]),
        html.Section("Curves", figures=[("loss over rounds", pictures[1])]),
    ]
    source = html.render(report(sections=sections))
    page = Page(source)
    images = page.all("img")
    assert [image["alt"] for image in images] == ["attack", "loss over rounds"]
    embedded = [
        base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        for image in images
    ]
    assert embedded == pictures
    assert not page.open  # Every tag is closed.
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    for word in ("http:", "https:", "//", "@import", "url("):
        # Base64 may hold any letters, and slashes.
        outside = source
        for image in images:
            outside = outside.replace(image["src"], "")
        assert word not in outside
    (html_tag,) = page.all("html")
    assert html_tag["lang"] == "en"


def test_user_text_is_escaped_everywhere():
    evil = "<script>alert('x')</script> & \"quoted\""
    source = html.render(
        report(
            title=evil,
            verdict=evil,
            facts=[(evil, evil)],
            sections=[
                html.Section(evil, evil, [(evil, b"png")], [(evil, [evil], [[evil]])])
            ],
            configuration={evil: evil, "nested": {"key": [evil]}},
            scores={evil: 0.5},
        )
    )
    page = Page(source)
    assert not page.all("script")
    assert page.text.count(evil) >= 11
    assert page.all("img")[0]["alt"] == evil


def test_text_of_values_and_paragraphs():
    rows = [
        ["attack", 1, 0.5, 421.25, None, True],
        ["control", 2, 1e-6, 6.7, float("nan"), False],
    ]
    section = html.Section("Figures", "A\nB\n\nC", [], [("t", list("abcdef"), rows)])
    source = html.render(report(sections=[section]))
    text = Page(source).text.split("\n")
    shown = ["attack", "1", "0.500", "421.2", "not defined", "yes"]
    start = text.index("attack")
    assert text[start : start + 6] == shown
    start = text.index("control")
    shown = ["control", "2", "1.0e-06", "6.7", "not defined", "no"]
    assert text[start : start + 6] == shown
    assert "<p>A\nB</p>\n<p>C</p>" in source
    # Settings keep every digit.
    assert {"1e-05", "[3, 8]", "100"} <= set(
        source.replace("</td>", "<td>").split("<td>")
    )


def test_write_is_atomic(tmp_path):
    path = tmp_path / "run" / "report.html"
    html.write(report(), path)
    assert path.read_text(encoding="utf-8") == html.render(report())
    assert list(path.parent.iterdir()) == [path]


def test_numpy_figures_can_be_shown():
    source = html.render(
        report(facts=[("a", np.float64(0.25))], configuration={"b": np.float32(2)})
    )
    assert "<dd>0.250</dd>" in source


def test_unknown_kind_of_verdict():
    with pytest.raises(errors.InputError, match="expected one of leak, partial"):
        html.render(report(verdict_good="good"))


def test_cells_lead_to_other_files_and_a_headline_can_be_given():
    cell = html.Linked("0.5 <b>", (("seed 0", "cells/a&b/0/report.html"),))
    table = ("Caption", ["name", "value", "plain"], [["row", cell, 0.25]])
    sections = [html.Section("Cells", tables=[table])]
    source = html.render(report(sections=sections, headline="Stopped, at a price"))
    page = Page(source)
    assert {"href": "cells/a&b/0/report.html"} in page.all("a")
    assert "0.5 <b> seed 0" in " ".join(page.text.split())
    assert "0.250" in page.text
    assert "Stopped, at a price" in page.text
    assert "Leak" not in page.text


def test_a_figure_with_more_behind_it_may_break_and_words_have_room():
    interval = "-0.35 [-0.61, -0.09] (3 seeds), last half -0.44"
    sentence = "40 participants at least are needed, of which there are 10 here"
    rows = [["row", interval, sentence, "does not apply", 0.25]]
    table = ("Caption", ["name", "a", "b", "c", "d"], rows)
    page = Page(html.render(report(sections=[html.Section("Cells", tables=[table])])))
    classes = [cell["class"] for cell in page.all("td") if "class" in cell]
    assert classes == ["number long", "words", "number", "number"]
