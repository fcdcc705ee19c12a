"""Fills the malicious server's slot for representatives (Wang et al., section V-E)."""

from computations.malicious_server import FindRepresentatives
from tff_leak.attacks.label_inference import infer_labels
from tff_leak.attacks.representatives import Representatives, reconstruct
from tff_leak.models.network import Network


def build_find_representatives(
    network: Network, settings: Representatives
) -> FindRepresentatives:
    """Builds the slot: labels from the output layer, pictures by Eq. 8.

    Type signature of what is built, with n = `settings.images`:

        (weights, updates float32[clients, ...] each, seed int32[2])
        -> (images float32[clients, n, H, W, C] in [-1, 1], labels int32[clients, n])

    Args:
      network: the shared classifier; its last layer has biases.
      settings: of the matching; `local_rate` and `local_steps` are the clients'.
    """

    def find(weights, updates, seed):
        labels = infer_labels(updates, settings.images)
        found = reconstruct(settings, network, weights, updates, labels, seed)
        return found.images, found.labels

    return find
