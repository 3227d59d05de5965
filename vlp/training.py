"""`vlp train`: DATA and ENCODER in, MODEL out.

Supervised by report text alone, through mentions and sentences. The knowledge side is frozen, so its vectors are
computed once; so are the patch features of a frozen image tower. What is trained is the network (vlp/methods.py says
which), as a `ConceptTask` in the loop of vlp/loop.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from kgkit.interface import (
    draw_curve,
    partial_path,
    publish_folder,
    read_manifest,
    recipe_to_dict,
    require_replaceable,
    write_json_atomically,
    write_text_atomically,
)
from vlp.after_training import look_at_inverted, write_for_use
from vlp.artifact import complete_model, write_model_tensors, write_queries
from vlp.checkpoint import TrainingState
from vlp.concept_task import ConceptTask, mention_auroc
from vlp.config import TrainConfig, VlpRecipe
from vlp.data.dataset import FilmSet, Questions, choose_questions, film_set
from vlp.data.film_cache import cache_films
from vlp.data.prepared import PreparedData, load_data
from vlp.denial import Denial, fit_denial
from vlp.input_check import MAX_FILMS
from vlp.loop import CHECKPOINT, EPOCH, learn, make_accelerator
from vlp.losses import query_loss, target_weights
from vlp.methods import FilmModel, build_network
from vlp.model import film_logits
from vlp.model_card import model_card
from vlp.run_folder import RUN_FILE, changes_of, check_stopped_run, open_run
from vlp.towers import ImageTower, load_tower, weights_digest

_RATES = ("optimizer.learning_rate", "optimizer.lowest_rate", "optimizer.gradient_clip")
"""What a resumed run may have otherwise: after a NaN they have to be lower."""


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a run made; also in MODEL/metrics.json.

    Attributes:
        model_dir: The MODEL folder.
        queries: Number of concepts it can be asked at once without an encoder.
        train_films: Films trained on.
        val_films: Films that chose the epoch.
        best_epoch: 1-based.
        metrics: `val_loss`, `val_mention_macro_auroc` and so on, of that epoch.
    """

    model_dir: Path
    queries: int
    train_films: int
    val_films: int
    best_epoch: int
    metrics: dict[str, Any]


def train(config: TrainConfig) -> TrainSummary:
    """Train a model on a DATA folder.

    Raises:
        InputError: if DATA or ENCODER is not what it should be, nothing can be learned from it, or a resumed
            run was started with other inputs.
    """
    require_replaceable(config.out_dir, "model")
    data = load_data(config.data_dir)
    read_manifest(config.encoder_dir, "encoder")
    accelerator = make_accelerator(config.recipe.optimizer)
    questions = choose_questions(data, config)
    tower = load_tower(config.recipe.tower.name, config.recipe.tower.stride).to(accelerator.device)
    tower.unfreeze(config.recipe.tower.trained_blocks)
    partial = _open_partial(config, data, questions, tower, accelerator)
    films = load_films(data, questions, tower, config, accelerator)
    model, state = fit(films, questions, tower, config.recipe, accelerator, partial)
    val_logits = film_logits(model, films[1].parts(), questions.vectors)
    summary = _summarise(config, state, val_logits, films)
    accelerator.end_training()  # the first process goes on alone, however long that takes
    if accelerator.is_main_process:
        denial = learn_denial(model, films, questions, config.recipe, val_logits)
        inverted = look_at_inverted(tower, data, config.recipe, accelerator.device)
        looks = _features(model, films[0]), _features(model, films[1]), inverted
        write_for_use(partial, data, (questions.queries, denial), looks, (films[1].targets, val_logits))
        draw_curve(partial, EPOCH)
        _write_model(config, data, questions, tower, partial, summary, model, denial)
    return summary


def fit(
    films: tuple[FilmSet, FilmSet],
    questions: Questions,
    tower: ImageTower,
    recipe: VlpRecipe,
    accelerator: Accelerator,
    folder: Path,
) -> tuple[FilmModel, TrainingState]:
    """Train on the films of one set, choose the epoch by those of the other.

    Args:
        films: Of train and of val; val may be empty.
        questions: What is asked.
        tower: Trained in place where the recipe trains it.
        recipe: Everything else.
        accelerator: See `make_accelerator`.
        folder: For the checkpoint, from which a run goes on that finds one, and the log.

    Returns:
        The model with its best weights, and the state at the end.

    Raises:
        InputError: if the loss is not a number.
    """
    with torch.random.fork_rng():  # the caller's randomness is left as it was
        torch.manual_seed(recipe.seed)
        dim = tower.geometry(recipe.tower.input_size).dim
        network = build_network(recipe, dim, questions.vectors.shape[1])
        model = FilmModel(network, tower if recipe.tower.trained_blocks else None, recipe.tower)
        with torch.no_grad():
            network.fit_standardisation((model.features(part) for part in films[0].parts()), questions.vectors)
        state = learn(ConceptTask(films, questions, recipe, model), recipe.optimizer, accelerator, folder)
    return model, state


def learn_denial(
    model: FilmModel,
    films: tuple[FilmSet, FilmSet],
    questions: Questions,
    recipe: VlpRecipe,
    val_logits: Tensor | None = None,
) -> Denial | None:
    """How `normal` is answered, from the reports of the films that chose the epoch; of all films if there are none.

    Args:
        model: Trained.
        films: Of train and of val; val may be empty.
        questions: What was taught.
        recipe: Says whether `normal` is answered so.
        val_logits: float [N, Q] of the val films, where they are known already; the films are not looked at again.
    """
    if not recipe.targets.deny_findings:
        return None
    judged, logits = (films[1], val_logits) if len(films[1]) else (films[0], None)
    if logits is None:
        logits = film_logits(model, judged.parts(), questions.vectors)
    return fit_denial(questions.queries, judged.targets, logits)


def load_films(
    data: PreparedData, questions: Questions, tower: ImageTower, config: TrainConfig, accelerator: Accelerator
) -> tuple[FilmSet, FilmSet]:
    """The films of train and val, made ready once and set beside their targets."""
    sets = []
    for split in ("train", "val"):
        films = data.films(list(questions.targets[split]), frontal_only=config.recipe.frontal_only)
        views = config.recipe.tower.views if split == "train" else 1
        tower_config = replace(config.recipe.tower, views=views)
        with accelerator.main_process_first():  # the others find what the first one kept
            cache = cache_films(tower, data, films, tower_config, accelerator.device)
        sets.append(film_set(questions, split, cache, films))
    return sets[0], sets[1]


@torch.no_grad()
def _features(model: FilmModel, films: FilmSet) -> Tensor:
    """Patch features of films as they are (view 0), as many as the input check asks for: float16 [N, Hp, Wp, D]."""
    parts = list(films.parts(at_most=MAX_FILMS)) or [films.cache.look(films.rows, films.rows)]
    return torch.cat([model.features(part).to(torch.float16).cpu() for part in parts])


def _open_partial(
    config: TrainConfig, data: PreparedData, questions: Questions, tower: ImageTower, accelerator: Accelerator
) -> Path:
    """The folder the run works in, checked against the run that began it."""
    run = {
        "recipe": recipe_to_dict(config.recipe),
        "data_digest": data.digest,
        "encoder_digest": questions.encoder_digest,
        "tower_sha256": tower.spec.weights_sha256,
    }
    if config.resume:
        check_stopped_run(config.out_dir, run, _RATES)  # in every process
    accelerator.wait_for_everyone()  # before the first one writes down what it finds changed
    if accelerator.is_main_process:
        open_run(config.out_dir, "model", run, resume=config.resume, may_change=_RATES)
    accelerator.wait_for_everyone()
    return partial_path(config.out_dir)


def _summarise(
    config: TrainConfig, state: TrainingState, val_logits: Tensor, films: tuple[FilmSet, FilmSet]
) -> TrainSummary:
    train_films, val_films = films
    metrics: dict[str, Any] = {}
    if len(val_films):
        weights = target_weights(val_films.targets, config.recipe.loss)
        metrics["val_loss"] = float(query_loss(val_logits, val_films.targets, weights))
        metrics |= mention_auroc(val_logits, val_films.targets)
    queries = int(val_logits.shape[1])
    metrics |= {
        "best_epoch": state.best_epoch,
        "epochs_run": state.epoch,
        "cpu_seconds": round(state.cpu_seconds, 1),
        "train_films": len(train_films),
        "val_films": len(val_films),
        "queries": queries,
    }
    return TrainSummary(config.out_dir, queries, len(train_films), len(val_films), state.best_epoch, metrics)


def _write_model(
    config: TrainConfig,
    data: PreparedData,
    questions: Questions,
    tower: ImageTower,
    partial: Path,
    summary: TrainSummary,
    model: FilmModel,
    denial: Denial | None,
) -> None:
    write_model_tensors(partial, tower, model.network.state_dict())
    write_queries(partial, questions.queries, questions.counts, questions.vectors)
    write_json_atomically(partial / "metrics.json", summary.metrics)
    spec = replace(tower.spec, weights_sha256=weights_digest(tower.backbone))
    manifest = {
        "recipe": recipe_to_dict(config.recipe),
        "tower": asdict(spec),
        "patches": asdict(tower.geometry(config.recipe.tower.input_size)),
        "query_dim": int(questions.vectors.shape[1]),
        "encoder_digest": questions.encoder_digest,
        "encoder_path": str(config.encoder_dir.resolve()),
        "licence_level": questions.licence_level,
        "data_digest": data.digest,
        "dataset": data.manifest["dataset"],
        "data_licence": data.manifest["licence"],
        "label_set": data.manifest["label_set"],
        "mentions_unused": questions.unused,
        "studies_without_report": questions.silent,
        "denial": None if denial is None else asdict(denial),
        "recipe_changed": changes_of(partial),
    }
    write_text_atomically(partial / "README.md", model_card(manifest, summary.metrics))
    for name in (CHECKPOINT, RUN_FILE):
        (partial / name).unlink(missing_ok=True)
    complete_model(partial, manifest)
    publish_folder(partial, config.out_dir)
