"""The evidence: where the sparse network lies in the landscape of the loss."""

from dirprune.core.directional import (
    DirectionalPruning,
    direction_scores,
    directional_prune,
    directional_solution,
)
from dirprune.landscape.connectivity import (
    Barrier,
    Connection,
    CurveSettings,
    barrier,
    connect,
    connection_request,
)
from dirprune.landscape.curves import point_on_curve
from dirprune.landscape.files import Result, Store, keep
from dirprune.landscape.hessian import (
    Eigenpairs,
    EigenSettings,
    HessianOperator,
    NotConvergedError,
    eigen_request,
    top_eigenpairs,
)
from dirprune.landscape.norms import Norms, NormSeries, norm_series
from dirprune.landscape.objective import Measured, Objective, Point, wrong_classes
from dirprune.landscape.oneshot import OneShot, OneShotSettings, Twin, oneshot_request, prune_in_one_shot
from dirprune.landscape.plane import Frame, Plane, PlaneSettings, measure_plane, plane_request
from dirprune.landscape.projection import (
    Projection,
    ProjectionSeries,
    project,
    projection_request,
    subspace_fraction,
)
from dirprune.landscape.scan import Values
from dirprune.landscape.theorem import Agreement, Theorem, TheoremSettings, check_theorem, theorem_request

__all__ = [
    "Agreement",
    "Barrier",
    "Connection",
    "CurveSettings",
    "DirectionalPruning",
    "EigenSettings",
    "Eigenpairs",
    "Frame",
    "HessianOperator",
    "Measured",
    "NormSeries",
    "Norms",
    "NotConvergedError",
    "Objective",
    "OneShot",
    "OneShotSettings",
    "Plane",
    "PlaneSettings",
    "Point",
    "Projection",
    "ProjectionSeries",
    "Result",
    "Store",
    "Theorem",
    "TheoremSettings",
    "Twin",
    "Values",
    "barrier",
    "check_theorem",
    "connect",
    "connection_request",
    "direction_scores",
    "directional_prune",
    "directional_solution",
    "eigen_request",
    "keep",
    "measure_plane",
    "norm_series",
    "oneshot_request",
    "plane_request",
    "point_on_curve",
    "project",
    "projection_request",
    "prune_in_one_shot",
    "subspace_fraction",
    "theorem_request",
    "top_eigenpairs",
    "wrong_classes",
]
