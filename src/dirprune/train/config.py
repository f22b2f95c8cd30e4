"""What a run is: every setting that its result depends on."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Any, Literal

import tyro

from dirprune.core.threshold import RULES, Penalty
from dirprune.errors import UsageError, unknown
from dirprune.methods import METHODS
from dirprune.train.schedules import check_schedule, learning_rate_factor

TWINS = ("sgd", "grda")
"""What a recipe trains unless it is told otherwise."""
OF_A_RUN = ("method", "c", "mu", "penalty", "sparsity", "settings", "seed")
"""What tells runs of one experiment apart."""
_LONGEST = 200  # bytes of a folder's name; file systems take 255, and others add to it
_DIGITS = 12  # of the hash that ends a name which was cut


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one run; a recipe is a function that returns one.

    Raises:
        UsageError: A setting is outside its range.
    """

    recipe: Annotated[str, tyro.conf.Suppress]
    """Name of the recipe that the settings started from."""
    dataset: str
    """Name of the data set."""
    model: str
    """Name of the network."""
    width: float = 1.0
    """Factor on the network's numbers of channels."""
    method: Annotated[str, tyro.conf.Suppress] = "grda"
    """How it is trained: a name in `dirprune.methods.METHODS`."""
    lr: float = 0.1
    """Learning rate gamma."""
    c: Annotated[float, tyro.conf.Suppress] = 5e-4
    """gRDA: scale of the threshold."""
    mu: Annotated[float, tyro.conf.Suppress] = 0.6
    """gRDA: exponent of the threshold's growth; greater is sparser."""
    penalty: Penalty = "l1"
    """gRDA: what becomes zero: single weights (l1, the paper), single weights while the others keep their
    size (l0), single weights while each output unit keeps its norm (rescaled), or output channels as a whole
    (group), which `dirprune export --to slim` removes."""
    sparsity: float | None = None
    """Wanted fraction of zeros among the prunable parameters, for the methods that take a target."""
    settings: tuple[str, ...] = ()
    """Settings of the other methods, such as drop=0.5 every=50; each goes to the methods that have it."""
    momentum: float = 0.0
    """Momentum beta, for SGD and gRDA alike."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    beta2: float = 0.0
    """Decay of Adam's mean of squared gradients; 0: none. With 0.999, for instance, SGD is AdamW and gRDA is
    its adaptive form, as transformers want it."""
    weight_decay: float = 0.0
    """l2 penalty, for SGD and gRDA alike; decoupled with --beta2."""
    prune: Literal["all", "weights"] = "all"
    """Threshold every parameter (the paper's setting), or weights of linear and conv layers only."""
    batch_size: int = 128
    """Images in a step; the last, smaller batch of an epoch is kept."""
    epochs: int = 100
    """Passes over the training set."""
    schedule: str = "constant"
    """How the learning rate changes over the epochs: constant, drop, half-linear, cosine, or the name of a
    class of torch.optim.lr_scheduler."""
    schedule_args: tuple[str, ...] = ()
    """Arguments of a torch scheduler, such as milestones=[60,120] gamma=0.2; rates among them are factors
    on --lr."""
    schedule_epochs: int | None = None
    """Epochs that the schedule is laid out for; None: as many as are trained. With more than --epochs the
    run is the beginning of a longer one."""
    image_size: int | None = None
    """Height and width of the images, in pixels; None: what the data set has. Images in memory are averaged
    down by a whole factor, streamed ones are cropped and resized."""
    crop_padding: int = 0
    """Augmentation: zero padding, in pixels, before a random crop; 0 for none."""
    flip: bool = False
    """Augmentation: flip images left to right at random."""
    mean: tuple[float, ...] = (0.5,)
    """Mean of each channel, in [0, 1], that is subtracted from the images."""
    std: tuple[float, ...] = (0.5,)
    """Deviation of each channel that the images are divided by."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward and backward pass; no: float32."""
    channels_last: bool = False
    """Keep weights and activations with the channel innermost: often faster, same results up to rounding."""
    validation: float = 0.0
    """Hold back this fraction of the training set and measure on it instead of on the test set."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, augmentation and dropout."""

    def __post_init__(self) -> None:
        checks: list[tuple[str, bool, str]] = [
            ("width", self.width > 0, "> 0"),
            ("lr", 0 <= self.lr <= 3e38, "in [0, 3e38]"),
            ("c", 0 <= self.c < math.inf, "a finite number >= 0"),
            ("mu", 0 < self.mu <= 1, "in (0, 1]"),
            ("penalty", self.penalty in RULES, f"one of {', '.join(RULES)}"),
            ("sparsity", self.sparsity is None or 0 <= self.sparsity < 1, "in [0, 1)"),
            ("settings", all("=" in pair for pair in self.settings), "of the form name=value"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("beta2", 0 <= self.beta2 < 1, "in [0, 1)"),
            ("nesterov", not self.nesterov or self.momentum > 0, "used together with `momentum` > 0"),
            ("nesterov", not (self.nesterov and self.beta2), "left out with `beta2`"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "a finite number >= 0"),
            ("prune", self.prune in ("all", "weights"), "all or weights"),
            ("precision", self.precision in ("no", "bf16", "fp16"), "one of no, bf16, fp16"),
            ("batch_size", self.batch_size >= 1, ">= 1"),
            ("epochs", self.epochs >= 1, ">= 1"),
            ("schedule_epochs", self.schedule_epochs is None or self.schedule_epochs >= 1, ">= 1"),
            (
                "schedule_epochs",
                self.schedule == "constant"
                or self.schedule_epochs is None
                or self.schedule_epochs >= self.epochs,
                f"at least `epochs`, which is {self.epochs}",
            ),
            ("image_size", self.image_size is None or self.image_size >= 1, ">= 1"),
            ("crop_padding", self.crop_padding >= 0, ">= 0"),
            ("mean", len(self.mean) == len(self.std), "as long as `std`"),
            ("std", all(deviation > 0 for deviation in self.std), "> 0 in every channel"),
            ("validation", 0 <= self.validation < 1, "in [0, 1)"),
            ("seed", 0 <= self.seed < 2**63, "in [0, 2^63)"),
        ]
        for name, holds, expected in checks:
            if not holds:
                raise UsageError(f"`{name}` must be {expected}, got {getattr(self, name)}")
        if self.method not in METHODS:
            raise UsageError(unknown("method", self.method, METHODS))
        check_schedule(self.schedule, self.schedule_args, self.schedule_epochs or self.epochs)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the settings that a run folder of an earlier version may leave out."""
        return {field.name: field.default for field in fields(cls) if field.default is not MISSING}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainConfig":
        """Return the settings that JSON holds, perhaps beside other things.

        Raises:
            TypeError: A setting without a default is missing.
            UsageError: One is out of range.

        Example:
            >>> import json
            >>> from dataclasses import asdict
            >>> config = TrainConfig(recipe="mine", dataset="digits", model="lenet5", mean=(0.3,), std=(0.4,))
            >>> TrainConfig.from_json(json.loads(json.dumps({**asdict(config), "data": "0f3a"}))) == config
            True
        """
        known = {field.name for field in fields(cls)}
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content.items()
            if key in known
        }
        return cls(**settings)

    def with_method(self, method: str) -> "TrainConfig":
        """Return the twin that another method trains, without the settings that mean nothing to it.

        Raises:
            UsageError: There is no such method, or it needs a target sparsity and there is none.
        """
        if method not in METHODS:
            raise UsageError(unknown("method", method, METHODS))
        entry = METHODS[method]
        if entry.facts.needs_target and self.sparsity is None:
            raise UsageError(f"{method} needs the final sparsity in advance: `sparsity` 0.9, for instance")
        grda = method == "grda"
        known = set() if grda else {field.name for field in fields(entry.settings)}
        return replace(
            self,
            method=method,
            c=self.c if grda else 0.0,
            mu=self.mu if grda else 1.0,
            penalty=self.penalty if grda else "l1",
            sparsity=self.sparsity if entry.facts.needs_target else None,
            settings=tuple(pair for pair in self.settings if pair.split("=", 1)[0] in known),
        )

    def rate_factor(self, epoch: int) -> float:
        """Return the factor on all learning rates in an epoch, counted from 1."""
        return learning_rate_factor(
            self.schedule, self.schedule_args, epoch, self.schedule_epochs or self.epochs
        )

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 1."""
        return self.lr * self.rate_factor(epoch)

    @property
    def stops_early(self) -> bool:
        """Whether training ends before its learning-rate schedule does."""
        return self.schedule != "constant" and self.schedule_epochs not in (None, self.epochs)

    @property
    def run_name(self) -> str:
        """Name of the run's folder within its experiment."""
        penalty = [] if self.penalty == "l1" else [self.penalty]
        thresholds = [*penalty, f"c{short(self.c)}", f"mu{short(self.mu)}"] if self.method == "grda" else []
        target = [] if self.sparsity is None else [short(self.sparsity)]
        settings = [short(pair) for pair in self.settings]
        head = _cut("-".join([self.method, *thresholds, *target, *settings]))
        return f"{head}-seed{self.seed}"  # also where it was cut: runs are paired by it

    def experiment_name(self, recipe: "TrainConfig") -> str:
        """Name of the experiment's folder: the recipe, and each setting that was changed in it.

        What tells runs of one experiment apart - the method with its settings, the seed - is not part of it.
        A long name is cut, and ends in a hash of the whole.
        """
        changed = [
            f"{field.name.replace('_', '-')}{short(getattr(self, field.name))}"
            for field in fields(self)
            if field.name not in OF_A_RUN and getattr(self, field.name) != getattr(recipe, field.name)
        ]
        return _cut("-".join([self.recipe, *changed]))


def _cut(name: str) -> str:
    """Return a name that a file system takes: a long one is cut, and its hash tells it from its like."""
    encoded = name.encode()
    if len(encoded) <= _LONGEST:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGITS]
    return f"{encoded[: _LONGEST - _DIGITS - 1].decode(errors='ignore')}-{digest}"


def short(value: Any) -> str:
    """Write a setting so that it can stand in a folder's name."""
    if isinstance(value, float):
        text = f"{value:g}"
        return text if float(text) == value else repr(value)  # else two runs might have one name
    if isinstance(value, tuple):
        return "_".join(map(short, value))
    return re.sub(r"[^\w.,=+-]+", "_", str(value))
