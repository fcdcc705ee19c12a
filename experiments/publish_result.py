"""Adds a finished run to docs/results and makes the pages of results anew.

python -m experiments.publish_result --preset=digits --run=runs/demo
"""

import difflib
import json
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping

from absl import flags

from experiments import leak_matrix_program, preset_files, presets
from experiments.leak_matrix_cells import MATRICES
from tff_leak.errors import InputError
from tff_leak.report import claims, results
from tff_leak.report.tables import page_path
from tff_leak.runtime import cli, jobs
from tff_leak.runtime.atomic import atomic_write_json, atomic_write_text

_RUN = flags.DEFINE_multi_string("run", [], "Directory of a finished run; repeatable.")
_PRESET = flags.DEFINE_string(
    "preset", None, "Name under docs/results: that of a file in experiments/configs."
)
_DOCS = flags.DEFINE_string("docs", "docs", "The documentation's folder.")

# What a run of `run_key_protected` or of membership is about, where it has it.
_CURVES = (
    "advantage",
    "participant_accuracy",
    "largest",
    "score_mean",
    "other_largest",
    "recovered_distance",
    "recovered_effort",
)


def main(argv: list[str]) -> None:
    """Copies summaries and pictures, then renders the pages."""
    del argv
    docs = pathlib.Path(_DOCS.value)
    if not docs.is_dir():
        raise InputError(f"--docs is {docs}: expected a folder that is there; name it")
    if _PRESET.value and not _RUN.value:
        raise InputError(
            f"--preset is {_PRESET.value} without --run: expected both; add --run, or "
            "leave it out to render the pages alone"
        )
    if _RUN.value:
        _check_generated(docs, ["results.md", page_path(_PRESET.value or "")])
    for run in _RUN.value:
        _copy(pathlib.Path(run), docs / "results")
    pages = render(docs)
    _check_generated(docs, pages)
    for path, text in pages.items():
        (docs / path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(docs / path, text)
    for path in leftover_pages(docs, pages):
        path.unlink()
    print(f"Page: {docs / 'results.md'}")


def render(docs: pathlib.Path) -> dict[str, str]:
    """Returns the pages of all that is published, by their paths in `docs`.

    Raises:
      InputError: if a summary or the folder's `claims.toml` cannot be read.
    """
    root, presets = docs / "results", _descriptions()
    known = docs / "claims.toml"
    judged = claims.read_claims(known) if known.is_file() else {}
    commands = {
        name: _command(name, paths[0].parent)
        for name, paths in results.families(root, presets).items()
        if name in presets
    }
    return results.render(root, presets, judged, commands)


def leftover_pages(docs: pathlib.Path, pages: Mapping[str, str]) -> list[pathlib.Path]:
    """Returns generated pages of presets that have no run any more."""
    return [
        path
        for path in sorted(docs.glob(page_path("*")))
        if path.relative_to(docs).as_posix() not in pages and _is_generated(path)
    ]


def _check_generated(docs: pathlib.Path, pages: Iterable[str]) -> None:
    """Raises InputError if a page would take the place of somebody's own file."""
    for path in pages:
        if (docs / path).is_file() and not _is_generated(docs / path):
            raise InputError(
                f"{docs / path} was not made by this command: expected a page that "
                "was; move it"
            )


def _is_generated(path: pathlib.Path) -> bool:
    return results.is_generated(path.read_text(encoding="utf-8", errors="replace"))


def _command(preset: str, run: pathlib.Path) -> str:
    """What a published run was made with, but for its seed."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    path = preset_files.CONFIGS / f"{preset}.flags"
    given = preset_files.read(path)
    flags = [f"--flagfile=experiments/configs/{path.name}"]
    if config.get("targets") and "targets" not in given:
        flags.append(f"--targets={','.join(map(str, config['targets']))}")
    kind, colon, _ = config.get("dataset", "").partition(":")
    if colon and "dataset" not in given:
        # Where somebody's folder lies is not published.
        flags.append(f"--dataset={kind}:PATH")
    binary = f"experiments.run_{config['experiment']}"
    output = f"--output_dir=runs/{run.parent.name}"
    return f".venv/bin/python -m {binary} {' '.join(flags)} {output}"


def _copy(run: pathlib.Path, root: pathlib.Path) -> None:
    summary = run / "summary.json"
    preset = _PRESET.value or ""
    if not summary.is_file():
        raise InputError(
            f"{run} has no summary.json: expected the directory of a finished run; let "
            "the run end first"
        )
    path = _preset_path(preset)
    config = _read(run / "config.json", "experiment", "dataset")
    figures = _read(summary, "dataset")
    if config["experiment"] == "leak_matrix":
        # What it has become since it was begun; it has its seeds in one summary.
        config |= {name: figures[name] for name in ("seeds", "attacks", "defences")}
        config["seed"] = "all_seeds"
    _check_is_preset(run, config, path)
    if config["experiment"] == "leak_matrix":
        _check_cells(run, config, figures)
    aimed = config["experiment"] in ("client_gan", "key_protected")
    if aimed and config["targets"] and "targets" not in preset_files.read(path):
        # What a preset leaves open stands in the name.
        preset = results.run_folder(preset, config["targets"])
    pictures = _pictures(run / "figures", config)
    missing = [path.name for path in pictures.values() if not path.is_file()]
    if missing:
        raise InputError(
            f"{run / 'figures'} lacks {', '.join(missing)}: expected the pictures of a "
            "finished run; repeat its command, which draws them anew"
        )
    target = root / preset / str(config["seed"])
    target.mkdir(parents=True, exist_ok=True)
    # With the commit and every setting: what was run, not what a preset says today;
    # but not where somebody's files lie.
    for place in ("data_dir", "ray_address"):
        config.pop(place, None)
    for kept, name in ((figures, "summary.json"), (config, "config.json")):
        kept = kept | {"dataset": _without_folder(kept["dataset"])}
        atomic_write_json(target / name, kept)
    for name, figure in pictures.items():
        shutil.copyfile(figure, target / name)
    for old in set(target.glob("*.png")) - {target / name for name in pictures}:
        # Of an earlier run of this preset and seed: they must not be mixed.
        old.unlink()


def _preset_path(preset: str) -> pathlib.Path:
    """The file of a preset.

    Raises:
      InputError: if there is none of that name.
    """
    path = preset_files.CONFIGS / f"{preset}.flags"
    if not re.fullmatch(r"\w+", preset) or not path.is_file():
        known = [path.stem for path in preset_files.CONFIGS.glob("*.flags")]
        near = difflib.get_close_matches(preset, known, n=3, cutoff=0.3)
        raise InputError(
            f"--preset is {preset!r}: expected the name of a file in "
            f"experiments/configs, such as {', '.join(near or ['digits'])}; correct it"
        )
    return path


def _read(path: pathlib.Path, *names: str) -> dict:
    """A run's own JSON.

    Raises:
      InputError: if it cannot be read, or has not all of these names.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.keys() >= set(names):
            return found
    except (OSError, ValueError):
        pass
    raise InputError(
        f"{path} cannot be read: expected what a finished run wrote; repeat the run's "
        "command, or publish another"
    )


def _without_folder(dataset: str) -> str:
    """The name of a data set; of an image folder its last part only."""
    kind, colon, path = dataset.partition(":")
    return f"{kind}:{pathlib.Path(path).name}" if colon == ":" else dataset


def _pictures(figures: pathlib.Path, config: dict) -> dict[str, pathlib.Path]:
    """The small pictures that stand for a run, by their names under docs/results."""
    chosen = {}
    overviews = [
        figures / "attack_all.png",
        *sorted(figures.glob("attack_[0-9]*.png")),
    ]
    overviews = [path for path in overviews if path.exists()]
    if overviews:
        chosen["picture.png"] = overviews[0]
    for path in sorted(figures.glob("frontier_*.png")):
        chosen[f"picture_{path.name}"] = path
    for name in _CURVES:
        if (figures / f"{name}.png").exists():
            chosen[f"picture_{name}.png"] = figures / f"{name}.png"
    if config["experiment"] == "server_gan" and "honest" in config["arms"]:
        # Wang et al., figure 7.
        chosen["picture_task_accuracy.png"] = figures / "task_accuracy.png"
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
    different = presets.differences(preset, config)
    if different:
        raise InputError(
            f"{run} was made with {'; '.join(different)} in {preset.name}: expected a "
            "run of that preset; publish it under its own"
        )


def _check_cells(run: pathlib.Path, config: dict, summary: dict) -> None:
    """Raises InputError if a cell was run by another command than the matrix has."""
    plan = leak_matrix_program.build_plan(
        MATRICES[config["matrix"]],
        attacks=config["attacks"],
        defences=config["defences"],
        seeds=config["seeds"],
        threads=config["threads_per_job"],
        quick=config["quick"],
    )
    failed = {
        f"{cell['attack']}/{cell['defence']}/{one['seed']}"
        for cell in summary["cells"]
        for one in cell["runs"]
        if one["error"]
    }
    planned = leak_matrix_program.jobs_of(plan, run, None)
    other = [job.name for job in planned if not jobs.is_done(job)]
    other = [name for name in other if name not in failed]
    if other:
        raise InputError(
            f"{run} has cells {', '.join(other)} that were not run by the commands "
            "that the matrix has for them: expected no others; delete them under "
            "cells/ and run the matrix again"
        )


def _descriptions() -> dict[str, str]:
    """The comments at the head of each preset."""
    texts = {}
    for path in preset_files.CONFIGS.glob("*.flags"):
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [re.sub(r"^#\s?", "", line) for line in lines if line[:1] == "#"]
        texts[path.stem] = "\n".join(comments)
    return texts


if __name__ == "__main__":
    cli.run_main(main)
