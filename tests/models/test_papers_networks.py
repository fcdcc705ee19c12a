"""The papers' networks: parameter counts worked out by hand, and output shapes."""

import pytest
import tensorflow as tf

from tff_leak.models import classifiers, discriminators, generators

SEED = tf.constant([1, 2])

# Weights and biases, layer by layer.
HITAJ_MNIST = (25 * 32 + 32) + (25 * 32 * 64 + 64) + (256 * 200 + 200) + (200 * 11 + 11)
HITAJ_ATT = (
    (25 * 32 + 32)
    + (25 * 32 * 64 + 64)
    + (25 * 64 * 128 + 128)
    + (512 * 200 + 200)
    + (200 * 41 + 41)
)
WANG_BODY = (
    (9 * 32 + 32) + (9 * 32 * 64 + 64) + (9 * 64 * 128 + 128) + (9 * 128 * 256 + 256)
)
# Kernels without bias; two numbers a channel for batch normalisation.
HITAJ_G = 16 * (100 * 128 + 128 * 64 + 64 * 32 + 32 * 1) + 2 * (128 + 64 + 32)
HITAJ_ATT_G = 16 * (100 * 256 + 256 * 128 + 128 * 64 + 64 * 32 + 32) + 2 * (
    256 + 128 + 64 + 32
)
WANG_G = (
    (10 + 2) * 100
    + (100 * 3456 + 3456)
    + 25 * (384 * 192 + 192 * 96 + 96 * 1)
    + 2 * (384 + 192 + 96)
)
WANG_ATT_G = (
    (40 + 2) * 100
    + (100 * 8192 + 8192)
    + 25 * (512 * 256 + 256 * 128 + 128 * 64 + 64)
    + 2 * (512 + 256 + 128 + 64)
)

CASES = [
    (classifiers.hitaj_mnist(), (32, 32, 1), (11,), HITAJ_MNIST),
    (classifiers.hitaj_att(), (64, 64, 1), (41,), HITAJ_ATT),
    (classifiers.wang_mnist(), (28, 28, 1), (10,), WANG_BODY + 12544 * 10 + 10),
    (classifiers.wang_att(), (64, 64, 1), (40,), WANG_BODY + 16384 * 40 + 40),
    (classifiers.mlp(10, (28, 28, 1)), (28, 28, 1), (10,), 784 * 200 + 200 + 2010),
    (
        discriminators.wang_mnist_multitask(),
        (28, 28, 1),
        (12,),
        WANG_BODY + 12544 * 12 + 12,
    ),
    (
        discriminators.wang_att_multitask(),
        (64, 64, 1),
        (42,),
        WANG_BODY + 16384 * 42 + 42,
    ),
    (generators.hitaj_mnist(), (100,), (32, 32, 1), HITAJ_G),
    (generators.hitaj_att(), (100,), (64, 64, 1), HITAJ_ATT_G),
    (generators.wang_mnist(), (102,), (28, 28, 1), WANG_G),
    (generators.wang_att(), (102,), (64, 64, 1), WANG_ATT_G),
]


@pytest.mark.parametrize(
    "network, inputs, outputs, parameters", CASES, ids=[c[0].name for c in CASES]
)
def test_shapes_and_parameter_count(network, inputs, outputs, parameters):
    weights = network.initialize(SEED)
    batch = tf.random.stateless_uniform([3, *inputs], SEED)
    values, statistics = network.apply(weights, batch, True)
    assert network.input_shape == inputs
    assert tuple(values.shape) == (3, *outputs)
    assert network.num_parameters == parameters
    assert sum(int(tf.size(w)) for w in weights.trainable) == parameters
    assert [s.shape for s in statistics] == [s.shape for s in weights.statistics]


@pytest.mark.parametrize(
    "network, widths",
    [
        (generators.wang_att(base_filters=16), [128, 64, 32, 16, 1]),
        (generators.wang_att(), [512, 256, 128, 64, 1]),
        (discriminators.patches((64, 64, 1), planes=16), [16, 32, 32, 1]),
        (discriminators.patches((64, 64, 1)), [32, 64, 64, 1]),
    ],
)
def test_width(network, widths):
    kernels = [shape for shape in network.trainable_shapes if len(shape) == 4]
    if "generator" in network.name:
        # Transposed: outputs before inputs.
        assert kernels[0][3] == widths[0]
        assert [kernel[2] for kernel in kernels] == widths[1:]
    else:
        assert [kernel[3] for kernel in kernels] == widths


def test_flattening_before_the_first_dense_layer_is_256_as_in_the_text():
    assert classifiers.hitaj_mnist().trainable_shapes[4] == (256, 200)


def test_generators_draw_in_the_range_of_tanh_and_depend_on_the_latent():
    network = generators.hitaj_mnist()
    weights = network.initialize(SEED)
    # The initial deviation of 0.02 keeps tanh near zero: scaled up, it saturates.
    loud = weights._replace(trainable=[w * 50 for w in weights.trainable])
    images, _ = network.apply(loud, generators.uniform_latents(8, SEED), True)
    assert float(tf.reduce_max(tf.abs(images))) <= 1.0
    assert float(tf.reduce_max(tf.abs(images))) > 0.99
    assert float(tf.reduce_mean(tf.abs(images[0] - images[1]))) > 0.01


def test_generator_weights_have_the_papers_deviation():
    weights = generators.hitaj_mnist().initialize(SEED).trainable[0]
    # 204,800 draws: the sample deviation is within 1% of 0.02 with room to spare.
    assert abs(float(tf.math.reduce_std(weights)) - 0.02) < 2e-4
    assert abs(float(tf.reduce_mean(weights))) < 3e-4


def test_conditional_generator_uses_category_and_identity():
    network = generators.wang_mnist()
    weights = network.initialize(SEED)
    noise = generators.uniform_latents(4, SEED)

    def draw(category, identity):
        labels = tf.tile([[float(category), float(identity)]], [4, 1])
        inputs = tf.concat([noise, labels], axis=1)
        return network.apply(weights, inputs, True)[0].numpy()

    same = draw(3, 1)
    assert (draw(3, 1) == same).all()
    assert (draw(4, 1) != same).any()
    assert (draw(3, 0) != same).any()


def test_heads_split_reality_categories_and_identity():
    outputs = tf.constant([[1.0, 2.0, 3.0, 4.0, 5.0]])
    split = discriminators.heads(outputs)
    assert split.reality.numpy().tolist() == [1.0]
    assert split.category.numpy().tolist() == [[2.0, 3.0, 4.0]]
    assert split.identity.numpy().tolist() == [5.0]
