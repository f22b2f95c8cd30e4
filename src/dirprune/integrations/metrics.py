"""What the callbacks hand to a library's logs."""

from torch import nn

from dirprune.core.sparsity import sparsity_report


def sparsity_metrics(model: nn.Module, *, per_layer: bool) -> dict[str, float]:
    """Name the sparsity of a network, and on demand that of every parameter.

    Args:
        model: Any module; where it is sharded, call it on every rank.
        per_layer: Whether to add ``sparsity/<name>`` of every trainable parameter.

    Returns:
        Fractions in [0, 1] by name.

    Example:
        >>> layer = nn.Linear(3, 1)
        >>> _ = nn.init.zeros_(layer.bias)
        >>> sparsity_metrics(layer, per_layer=True)
        {'sparsity': 0.25, 'sparsity/weight': 0.0, 'sparsity/bias': 1.0}
    """
    report = sparsity_report(model)
    layers = {f"sparsity/{layer.name}": layer.sparsity for layer in report.layers}
    return {"sparsity": report.sparsity, **(layers if per_layer else {})}
