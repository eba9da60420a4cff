"""Measure where TVConv helps: variants of a model on sets of images, each at a learning rate of its own.

    python -m tvconv_jax.experiments.evidence --data=DIR                     train what is missing, print the tables
    python -m tvconv_jax.experiments.evidence --show                         print the tables of what there is
    python -m tvconv_jax.experiments.evidence --show --page=docs/evidence.md --figures=docs   write them, and the plots

For every set and variant a few runs choose the learning rate on held-out training images. Then one run a seed trains on
all training images and is scored on the test images. A run that ended is a line of --out; the same command trains what
is missing. Two commands for different --sets may write to one file. DIR holds a folder for each set.
"""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from tvconv_jax.data.cache import cache_dir
from tvconv_jax.experiments.evidence import pretrained, search, tables
from tvconv_jax.experiments.evidence.problems import problem_of
from tvconv_jax.experiments.evidence.record import Record, pack, pack_groups
from tvconv_jax.experiments.evidence.sets import SETS, ImageSet, Part, explained_by_mean, load
from tvconv_jax.experiments.evidence.training import PRETRAINED, VARIANTS, Recipe, Trained, Trainer, variants_of
from tvconv_jax.utils.cli import Parser, ends_in_one_line, integer, names, output_file, output_folder, path_argument
from tvconv_jax.utils.environment import device_description, versions
from tvconv_jax.utils.errors import UserError
from tvconv_jax.utils.progress import reporter

OUT = Path("docs/appendix/data/evidence.jsonl")
# (number of a half decade, seed, part to train on, part to score) -> outcome
Run = Callable[[int, int, Part, Part], Trained]


def _parser() -> Parser:
    parser = Parser(prog="python -m tvconv_jax.experiments.evidence", description=__doc__)
    recipe = Recipe()
    add = parser.add_argument
    add("--data", type=path_argument, metavar="DIR", help="folder of the sets")
    add("--out", type=output_file, default=OUT, metavar="FILE", help=f"lines of JSON; default: {OUT}")
    add("--sets", type=names(SETS), default=list(SETS), help=f"default: {','.join(SETS)}")
    variants = [*VARIANTS, PRETRAINED]
    add("--variants", type=names(variants), default=variants, help=f"default: {','.join(variants)}")
    add("--seeds", type=integer(1, 100), default=3, help="final runs of a set and variant; default: 3")
    add("--steps", type=integer(1), default=recipe.steps, help=f"default: {recipe.steps}")
    add("--batch-size", type=integer(2), default=recipe.batch_size, help=f"default: {recipe.batch_size}")
    add("--limit", type=integer(10), default=recipe.limit, help=f"training images; default: {recipe.limit}")
    add("--show", action="store_true", help="train nothing, print the tables")
    add("--page", type=output_file, metavar="FILE", help="Markdown page in which the tables are written anew")
    add("--figures", type=output_folder, metavar="DIR", help="folder for the two plots")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    args = _parser().parse_args(argv)
    with ends_in_one_line("runs that ended are kept; the same command goes on."):
        if not args.show:
            _measure(args)
        tables.show(Record(args.out), args.page, args.figures)


def _measure(args: Any) -> None:
    if args.data is None:
        raise UserError("--data is missing; name the folder of the sets, or give --show.")
    recipe = Recipe(steps=args.steps, batch_size=args.batch_size, limit=args.limit)
    record, settings = Record(args.out), recipe._asdict()
    record.check_settings(settings)
    if PRETRAINED in args.variants and (line := pretrained.lacking()):
        print(line, flush=True)
        args.variants.remove(PRETRAINED)
    if absent := [name for name in args.sets if not (args.data / name).is_dir()]:
        print(f"{args.data} has no folder {', '.join(absent)}; left out.", flush=True)
    present = [name for name in args.sets if name not in absent]
    if not present:
        raise UserError(f"{args.data} holds none of the sets: {', '.join(args.sets)}; name the folder that does.")
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))  # for a command that goes on
    record.append_new("command", settings=settings, device=device_description(), versions=versions())
    for name in present:
        _measure_set(name, args, recipe)


def _measure_set(name: str, args: Any, recipe: Recipe) -> None:
    """Train what is missing of a set; it is loaded only if something is."""
    found = None
    for variant in variants_of(SETS[name].task):
        record = Record(args.out)  # another command may have added to it
        if variant not in args.variants or _is_done(record, name, variant, args.seeds):
            continue
        if found is None:
            with reporter.doing(f"loading {name}"):
                found = load(name, args.data, recipe.limit)
            _describe(record, found)
        with reporter.doing(f"{name}, {variant}"):
            _measure_variant(record, found, variant, args.seeds, recipe)
        jax.clear_caches()
        gc.collect()


def _is_done(record: Record, name: str, variant: str, seeds: int) -> bool:
    return set(range(_seeds(variant, seeds))) <= set(record.finals(name, variant))


def _seeds(variant: str, seeds: int) -> int:
    return 1 if variant == PRETRAINED else seeds  # a logistic regression has one solution


def _describe(record: Record, found: ImageSet) -> None:
    """Write the line of a set: sizes, the groups of the test items, and how fixed its layout is."""
    parts = {part: len(getattr(found, part).images) for part in ("fit", "held_out", "train", "test")}
    record.append_new(
        "set",
        set=found.name,
        about=found.spec.about,
        task=found.spec.task,
        image_size=found.spec.image_size,
        classes=found.classes,
        images=parts,
        items=found.test.items,
        measure=problem_of(found).measure,
        by_person=bool(found.spec.group),
        explained=round(explained_by_mean(found.train.images), 4),
        groups=pack_groups(found.test.item_groups),
    )


def _measure_variant(record: Record, found: ImageSet, variant: str, seeds: int, recipe: Recipe) -> None:
    run, facts, coarse = _runner(found, variant, recipe)
    name = found.name
    confirmed = _seeds(variant, search.SEEDS)
    while (wanted := search.next_run(tried := _tried(record, name, variant), coarse, confirmed)) is not None:
        exponent, seed = wanted
        ended = run(exponent, seed, found.fit, found.held_out)
        error = float(ended.scores.items.std() / len(ended.scores.items) ** 0.5)
        _append(record, "rate", name, variant, exponent, seed, ended, error=round(error, 5))
    chosen = search.choose(tried)
    for seed in range(_seeds(variant, seeds)):
        if seed not in record.finals(name, variant):
            ended = run(chosen, seed, found.train, found.test)
            _append(record, "final", name, variant, chosen, seed, ended, **facts, items=pack(ended.scores.items))


def _tried(record: Record, name: str, variant: str) -> search.Found:
    return {
        exponent: {seed: search.Quality(line["score"], line["loss"], line["error"]) for seed, line in by_seed.items()}
        for exponent, by_seed in record.rates(name, variant).items()
    }


def _append(
    record: Record, kind: str, name: str, variant: str, exponent: int, seed: int, ended: Trained, **more: Any
) -> None:
    score, loss = round(float(ended.scores.items.mean()), 5), min(float(f"{ended.scores.loss:.5g}"), 1e9)
    loss = loss if loss == loss else 1e9  # nan
    numbers = {"exponent": exponent, "rate": search.value(exponent), "seed": seed, "score": score, "loss": loss}
    record.append(kind, set=name, variant=variant, **numbers, seconds=round(ended.seconds, 1), **more)
    print(
        f"{time.strftime('%H:%M:%S')} {name}, {variant}, {kind} {numbers['rate']:g}, seed {seed}: {100 * score:.1f} %, "
        f"{ended.seconds:.0f} s",
        flush=True,
    )


def _runner(found: ImageSet, variant: str, recipe: Recipe) -> tuple[Run, dict[str, int], Sequence[int]]:
    """Return what trains and scores a variant, its MACs and parameters, and the numbers it begins to search with."""
    if variant != PRETRAINED:
        trainer = Trainer(found, variant, recipe)
        facts = trainer.complexity._asdict()
        return lambda exponent, *run: trainer.run(search.value(exponent), *run), facts, search.COARSE
    extractor, problem = pretrained.Extractor(), problem_of(found)

    def run(exponent: int, _: int, train: Part, test: Part) -> Trained:
        start = time.monotonic()
        logits = pretrained.regress(extractor, search.value(exponent), train, test, found.classes)
        return Trained(problem.score(lambda _: logits, test), time.monotonic() - start)

    params = pretrained.PARAMS + (pretrained.FEATURES + 1) * found.classes
    facts = {"macs": pretrained.MACS, "params": params, "train_params": params}
    return run, facts, pretrained.COARSE


if __name__ == "__main__":
    main()
