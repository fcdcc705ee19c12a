"""Adds a finished run to docs/results and makes docs/results.md anew.

python -m experiments.publish_result --preset=digits --run=runs/demo
"""

import json
import pathlib
import re
import shutil

from absl import flags

from tff_leak.errors import InputError
from tff_leak.report import results
from tff_leak.runtime import cli
from tff_leak.runtime.atomic import atomic_write_json, atomic_write_text

_RUN = flags.DEFINE_multi_string("run", [], "Directory of a finished run; repeatable.")
_PRESET = flags.DEFINE_string(
    "preset", None, "Name under docs/results: that of a file in experiments/configs."
)
_DOCS = flags.DEFINE_string("docs", "docs", "The documentation's folder.")
_CONFIGS = pathlib.Path(__file__).parent / "configs"


def main(argv: list[str]) -> None:
    """Copies summaries and pictures, then renders the page."""
    del argv
    docs = pathlib.Path(_DOCS.value)
    for run in _RUN.value:
        _copy(pathlib.Path(run), docs / "results")
    page = results.render(docs / "results", _descriptions())
    atomic_write_text(docs / "results.md", page)
    print(f"Page: {docs / 'results.md'}")


def _copy(run: pathlib.Path, root: pathlib.Path) -> None:
    summary = run / "summary.json"
    preset = _PRESET.value or ""
    if not summary.is_file():
        raise InputError(
            f"{run} has no summary.json: expected the directory of a finished run; let "
            "the run end first"
        )
    path = _CONFIGS / f"{preset}.flags"
    if not path.is_file():
        known = sorted(path.stem for path in _CONFIGS.glob("*.flags"))
        raise InputError(
            f"--preset is {preset!r}: expected one of {', '.join(known)}; correct it"
        )
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    _check_is_preset(run, config, path)
    if "targets" in config and "targets" not in _flags(path):
        # What a preset leaves open stands in the name.
        preset += "_target" + "_".join(map(str, config["targets"]))
    target = root / preset / str(config["seed"])
    target.mkdir(parents=True, exist_ok=True)
    figures = json.loads(summary.read_text(encoding="utf-8"))
    # With the commit and every setting: what was run, not what a preset says today;
    # but not where somebody's files lie.
    config.pop("data_dir", None)
    for kept, name in ((figures, "summary.json"), (config, "config.json")):
        kept = kept | {"dataset": _without_folder(kept["dataset"])}
        atomic_write_json(target / name, kept)
    for name, figure in _pictures(run / "figures").items():
        shutil.copyfile(figure, target / name)


def _without_folder(dataset: str) -> str:
    """The name of a data set; of an image folder its last part only."""
    kind, colon, path = dataset.partition(":")
    return f"{kind}:{pathlib.Path(path).name}" if colon == ":" else dataset


def _pictures(figures: pathlib.Path) -> dict[str, pathlib.Path]:
    """The small pictures that stand for a run, by their names under docs/results."""
    chosen = {}
    overviews = [
        figures / "attack_all.png",
        *sorted(figures.glob("attack_[0-9]*.png")),
    ]
    overviews = [path for path in overviews if path.exists()]
    if overviews:
        chosen["picture.png"] = overviews[0]
    # Hitaj et al., figures 9 and 10: with and without influence, over the rounds.
    passive = sorted(figures.glob("progress_passive_[0-9]*.png"))
    if passive:
        target = passive[0].stem.removeprefix("progress_passive_")
        chosen |= {
            "picture_no_influence.png": passive[0],
            "picture_influence.png": figures / f"progress_{target}.png",
            "picture_recovered.png": figures / "recovered.png",
            "picture_task_accuracy.png": figures / "task_accuracy.png",
        }
    return chosen


def _check_is_preset(run: pathlib.Path, config: dict, preset: pathlib.Path) -> None:
    """Raises InputError if the run was made with another setting than the preset's."""
    for name, text in _flags(preset).items():
        found = config.get(name)
        if isinstance(found, dict):
            pairs = dict(pair.split("=") for pair in text.split(","))
            same = all(_same(found[key], value) for key, value in pairs.items())
        elif name == "arms":
            same = set(text.split(",")) <= set(found)  # more controls do no harm
        else:
            same = _same(found, text)
        if not same:
            raise InputError(
                f"{run} was made with {name}={_text(found)}, {preset.name} has {text}: "
                "expected a run of that preset; publish it under its own"
            )


def _flags(preset: pathlib.Path) -> dict[str, str]:
    """The flags of a preset; they override those of presets that it includes.

    A flag that stands twice in one file is a list.
    """
    flags_of: dict[str, str] = {}
    here: set[str] = set()
    for line in preset.read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"--(\w+)=(.*)", line.strip())
        if found and found[1] == "flagfile":
            flags_of |= _flags(_CONFIGS / pathlib.Path(found[2]).name)
        elif found:
            repeated = found[1] in here
            here.add(found[1])
            before = f"{flags_of[found[1]]}," if repeated else ""
            flags_of[found[1]] = before + found[2]
    return flags_of


def _same(value: object, text: str) -> bool:
    """Whether a value of `config.json` is what a flag's text says."""
    if isinstance(value, float):
        return value == float(text)
    return _text(value) == text


def _text(value: object) -> str:
    """A value of `config.json` as a flag would be written."""
    if isinstance(value, list):
        return ",".join(_text(entry) for entry in value)
    return str(value)


def _descriptions() -> dict[str, str]:
    """The comments at the head of each preset."""
    texts = {}
    for path in _CONFIGS.glob("*.flags"):
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [re.sub(r"^#\s?", "", line) for line in lines if line[:1] == "#"]
        texts[path.stem] = "\n".join(comments)
    return texts


if __name__ == "__main__":
    cli.run_main(main)
