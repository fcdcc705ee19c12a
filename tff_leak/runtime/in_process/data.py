"""Takes the arguments of a computation in: checks them and makes tensors of them."""

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime.in_process import arrays, shim, values
from tff_leak.runtime.in_process.values import Value


def dataset_options() -> tf.data.Options:
    """The options under which a client's dataset is read.

    TensorFlow rewrites a dataset's graph and tunes its parallelism each time one is
    iterated over. For the many short datasets of a cohort that takes longer than
    reading them.
    """
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    return options


class Ingestion:
    """Makes values of Python arguments; remembers the datasets it has seen."""

    def __init__(self):
        self._options = dataset_options()
        self._variants: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def __call__(self, argument: Any, type_spec: tff.Type) -> Any:
        """Returns an argument as a value; lists of clients' values stay lists.

        Raises:
          TypeError: if the argument is not of that type.
        """
        if isinstance(type_spec, tff.FederatedType):
            if type_spec.all_equal:
                return self(argument, type_spec.member)
            return [self(entry, type_spec.member) for entry in argument]
        if isinstance(type_spec, tff.StructType):
            return self._structure(argument, type_spec)
        if isinstance(type_spec, tff.SequenceType):
            return self._sequence(argument, type_spec)
        if isinstance(type_spec, tff.TensorType):
            return _tensor(argument, type_spec)
        raise TypeError(f"Expected an argument of type {type_spec}: not supported.")

    def _structure(self, argument: Any, type_spec: tff.StructType) -> Value:
        found = _entries(argument)
        expected = shim.elements(type_spec)
        names = [name for name, _ in expected]
        if [name for name, _ in found] != names:
            found = _arranged(found, names, type_spec)
        return tuple(
            self(entry, entry_type)
            for (_, entry), (_, entry_type) in zip(found, expected, strict=True)
        )

    def _sequence(self, argument: Any, type_spec: tff.SequenceType) -> tf.Tensor:
        if isinstance(argument, list | tuple):
            argument = _from_list(argument, type_spec)
        if not isinstance(argument, tf.data.Dataset):
            raise TypeError(
                f"Expected a tf.data.Dataset for {type_spec}, found "
                f"{type(argument).__name__}."
            )
        with self._lock:
            known = self._variants.get(argument)
        if known is None or known[0] != type_spec:
            _check_element(argument, type_spec)
            known = (type_spec, _source(argument.with_options(self._options)))
            with self._lock:
                self._variants[argument] = known
        return known[1]()


def _entries(argument: Any) -> list[tuple[str | None, Any]]:
    """The names and elements of any container that TFF takes for a structure."""
    if isinstance(argument, Mapping):
        return list(argument.items())
    fields = getattr(argument, "_fields", None)
    if isinstance(argument, tuple) and fields is not None:
        # A NamedTuple: TFF asks about it for 50 microseconds, for each client.
        return list(zip(fields, argument, strict=True))
    return shim.elements(shim.from_container(argument))


def _arranged(found: list, names: Sequence[str | None], type_spec: tff.Type) -> list:
    """The elements in the order of the type's names, or checked to be without any."""
    if len(found) == len(names) and sorted(str(name) for name, _ in found) == sorted(
        str(name) for name in names
    ):
        by_name = dict(found)
        return found if None in names else [(name, by_name[name]) for name in names]
    if len(found) != len(names) or any(
        name is not None and name != wanted
        for (name, _), wanted in zip(found, names, strict=True)
    ):
        raise TypeError(
            f"Expected a structure of type {type_spec}, found elements "
            f"{[name or '' for name, _ in found]}."
        )
    return found


def _source(dataset: tf.data.Dataset) -> Callable[[], tf.Tensor]:
    """Returns a function that returns a dataset's variant, the same in each call.

    A dataset that is shuffled anew for each reading keeps count of its readings. It is
    copied for each call, which then begins where all others do: computations have no
    memory, and a run that is resumed reads what it would have read.
    """
    with tf.device("/device:CPU:0"):
        variant = tf.data.experimental.to_variant(dataset)
        if not shim.is_reshuffled(dataset):
            return lambda: variant
        graph = tf.raw_ops.DatasetToGraphV2(
            input_dataset=variant,
            external_state_policy=1,  # Copy it nevertheless.
            strip_device_assignment=True,
        )
        graph = _without_counts(graph)

    def copy():
        with tf.device("/device:CPU:0"):
            return tf.raw_ops.DatasetFromGraph(graph_def=graph)

    return copy


def _without_counts(graph: tf.Tensor) -> bytes:
    """Returns a dataset's graph whose shuffling finds no count, and begins its own."""
    graph_def = tf.compat.v1.GraphDef.FromString(graph.numpy())
    counters = {
        node.input[-1] for node in graph_def.node if node.op.startswith("Shuffle")
    }
    for node in graph_def.node:
        if node.name in counters:
            for handle in node.attr["value"].tensor.resource_handle_val:
                handle.name = "no_count"
    return graph_def.SerializeToString()


def _check_element(argument: tf.data.Dataset, type_spec: tff.SequenceType) -> None:
    found = tff.types.tensorflow_to_type(argument.element_spec)
    if not type_spec.element.is_assignable_from(found):
        raise TypeError(
            f"Expected a dataset with elements of type {type_spec.element}, found "
            f"{found}."
        )


def _from_list(elements: Any, type_spec: tff.SequenceType) -> tf.data.Dataset:
    """A dataset of the elements in a list, whose shapes may differ."""
    signature = shim.to_tf_structure(type_spec.element)
    if not elements:
        return tf.data.Dataset.from_generator(
            lambda: iter(()), output_signature=signature
        )
    convert = Ingestion()
    packed = [
        values.to_element(convert(element, type_spec.element), type_spec.element)
        for element in elements
    ]
    result = tf.data.Dataset.from_tensors(packed[0])
    for element in packed[1:]:
        result = result.concatenate(tf.data.Dataset.from_tensors(element))
    return result


def _tensor(argument: Any, type_spec: tff.TensorType) -> tf.Tensor:
    dtype = values.tensor_dtype(type_spec)
    if isinstance(argument, tf.Variable):
        argument = argument.read_value()
    elif isinstance(argument, np.ndarray):
        known = arrays.tensor_of(argument)
        argument = argument if known is None else known
    if isinstance(argument, np.ndarray | np.generic | tf.Tensor):
        found = tf.dtypes.as_dtype(argument.dtype)
        if dtype != found and not (dtype == tf.string and _is_text(argument)):
            raise TypeError(
                f"Expected a tensor of dtype {dtype.name}, found {found.name}; convert "
                "it first."
            )
    try:
        if dtype.is_integer:
            _check_integers(argument, dtype)
        tensor = tf.convert_to_tensor(argument, dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Expected a value for {type_spec}, found {type(argument).__name__}."
        ) from error
    if not tf.TensorShape(type_spec.shape).is_compatible_with(tensor.shape):
        raise TypeError(
            f"Expected a tensor of shape {tf.TensorShape(type_spec.shape)}, found "
            f"{tensor.shape}."
        )
    return tensor


def _check_integers(argument: Any, dtype: tf.DType) -> None:
    """Raises TypeError for booleans, and for Python's integers out of range.

    TensorFlow takes both, and makes 0 of 2 ** 40.
    """
    if isinstance(argument, np.ndarray | np.generic | tf.Tensor):
        return
    found = np.asarray(argument)
    if found.size == 0:
        return
    are_integers = found.dtype.kind in "iu"
    if not are_integers or found.min() < dtype.min or found.max() > dtype.max:
        raise TypeError(f"Expected integers of dtype {dtype.name}.")


def _is_text(argument: Any) -> bool:
    kind = getattr(argument, "dtype", None)
    return kind is not None and np.dtype(kind).kind in "USO"
