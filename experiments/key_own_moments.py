"""Accuracy of participants that normalise by the moments of their own pictures.

Normalisation over the batch has, while a participant trains, the moments of its own
classes. An evaluator that shows pictures of all classes together normalises by theirs,
with which no participant trains, and a model may do better so than in its owner's
hands. Here each participant's model is given the moments of what it was trained on,
much as running statistics would come to be: those of all its pictures, at the weights
that the model has in the end.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from computations import dssgd
from experiments.dssgd_arm import ArmState
from experiments.key_federation import (
    KeySettings,
    OfflineEvaluator,
    build_embedding,
    own_model,
)
from experiments.networks import papers_classifier
from tff_leak.data.sources import Examples, Source
from tff_leak.defences.key_protection import feature_moments, key_features


def accuracy_by_own_moments(
    evaluator: OfflineEvaluator,
    state: ArmState,
    data: Sequence[Examples],
    tests: Examples,
    *,
    source: Source,
    settings: KeySettings,
    seed: int,
) -> dict[str, float]:
    """Measures the participants' own models, as their last turns left them.

    Args:
      evaluator: of the run. Where pictures do not count for one another nothing needs
        moments, and its network is taken as it is.
      state: of the federation.
      data: of each participant; who has none is left out.
      tests: of the classes that somebody has a key for.
      source: of the pictures.
      settings: of the embedding.
      seed: of the fixed layer.

    Returns:
      `participant_accuracy_own_moments`, the mean over participants of the accuracy by
      Eq. 4 over all keys, and `own_accuracy_own_moments`, of that on a participant's
      own classes by its own keys. Both of all `tests`.
    """
    [dimension] = evaluator.network.output_shape
    features = key_features(
        "features",
        functools.partial(papers_classifier, source.image_shape),
        dimension,
        hidden=settings.hidden,
        seed=seed,
    )
    every, own = [], []
    for number, part in enumerate(data):
        if not len(part):
            continue
        model = own_model(state, number)
        network = evaluator.network
        if not evaluator.each_by_itself:
            weights = dssgd.model_weights(network, model)
            moments = feature_moments(features, weights, part.images)
            network = build_embedding(source, dimension, settings, seed, moments)
        known = dataclasses.replace(
            evaluator, network=network, test=tests, each_by_itself=True
        )
        every.append(known.accuracy(model))
        own.append(known.accuracy_on_own(model, number))
    return {
        "participant_accuracy_own_moments": float(np.mean(every)),
        "own_accuracy_own_moments": float(np.mean(own)),
    }
