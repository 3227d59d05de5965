"""Films are read ahead of the model, and the answers are those of reading one film after the other."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kgkit.interface import InputError
from vlp.artifact import VlpModel, load_model
from vlp.images import ResizePad, load_image
from vlp.predict import PredictConfig, answer_squares, answers, predict
from vlp.queries import resolve_queries


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> VlpModel:
    return load_model(tiny_model_dir)


def test_answers_are_those_of_reading_first_and_asking_then(
    model: VlpModel, tiny_model_dir: Path, tiny_openi_dir: Path
) -> None:
    paths = sorted((tiny_openi_dir / "images").iterdir())[:21]  # the last batch is not full
    resolved = resolve_queries(model, (), findings_only=True)
    size = model.recipe.tower.input_size
    squares = torch.stack([_square(path, size) for path in paths])
    batches = torch.split(squares, model.recipe.tower.batch_size)
    expected = [answer for batch in batches for answer in answer_squares(model, batch, resolved)]
    logits = torch.cat([model.answer(batch, resolved.vectors).logits for batch in batches])
    plain = resolved.read(logits).sigmoid().numpy()
    assert np.stack([answer.probabilities for answer in expected]) == pytest.approx(plain, abs=1e-5)  # not folded
    found = list(answers(model, paths, _square, resolved))
    assert [path for path, _ in found] == paths
    for (_, answer), wanted in zip(found, expected, strict=True):
        assert not isinstance(answer, InputError)
        assert answer.probabilities == pytest.approx(wanted.probabilities, abs=1e-6)
        assert answer.embedding == pytest.approx(wanted.embedding, abs=1e-6)
    done = predict(PredictConfig(tiny_model_dir, tuple(paths)))
    assert [each.probability for each in done.found] == pytest.approx(
        np.concatenate([answer.probabilities for answer in expected]).tolist(), abs=1e-5
    )


def test_order_and_errors_stay_with_their_films_however_long_each_takes(model: VlpModel) -> None:
    resolved = resolve_queries(model, ("cardiomegaly",))
    size = model.recipe.tower.input_size
    delays = np.random.default_rng(0).uniform(0, 0.004, 30)
    squares = torch.from_numpy(np.random.default_rng(1).uniform(size=(30, size, size)).astype(np.float32))

    def read(film: int, side: int) -> torch.Tensor:
        time.sleep(delays[film])
        if film % 7 == 3:
            raise InputError(f"film {film} is torn")
        assert side == size
        return squares[film]

    found = list(answers(model, range(30), read, resolved))
    assert [film for film, _ in found] == list(range(30))
    alone = answer_squares(model, squares, resolved)
    for film, answer in found:
        if film % 7 == 3:
            assert isinstance(answer, InputError)
            assert str(answer) == f"film {film} is torn"
        else:
            assert not isinstance(answer, InputError)
            assert answer.probabilities == pytest.approx(alone[film].probabilities, abs=1e-4)  # other batches


def test_the_next_films_are_read_while_the_caller_is_busy_but_not_all(model: VlpModel) -> None:
    resolved = resolve_queries(model, ("cardiomegaly",))
    batch = model.recipe.tower.batch_size
    begun, second_batch = set[int](), threading.Event()
    count = 10 * batch

    def read(film: int, side: int) -> torch.Tensor:
        begun.add(film)
        if film >= 2 * batch - 1:
            second_batch.set()
        return torch.zeros(side, side)

    running = answers(model, range(count), read, resolved)
    assert next(running)[0] == 0
    assert second_batch.wait(10)
    assert max(begun) < 3 * batch  # a folder of a million films does not fill the memory
    running.close()
    time.sleep(0.05)
    assert len(begun) <= 3 * batch


def test_what_is_no_input_error_is_not_swallowed(model: VlpModel) -> None:
    resolved = resolve_queries(model, ("cardiomegaly",))

    def read(film: int, side: int) -> torch.Tensor:
        raise ZeroDivisionError(f"{film} {side}")

    with pytest.raises(ZeroDivisionError):
        list(answers(model, range(3), read, resolved))
    assert list(answers(model, (), read, resolved)) == []


def _square(path: Path, side: int) -> torch.Tensor:
    film = load_image(path)
    return torch.from_numpy(ResizePad((film.shape[0], film.shape[1]), side).apply(film))
