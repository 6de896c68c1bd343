"""Plot of a motion: its path in the principal plane, and the distance of its tokens from frame to frame."""

from torch import Tensor

from ..plot import chart, new_figure, picture_of
from .trajectory import Trajectory, principal_plane, step_lengths

LABELS = 12  # approximate number of labeled frames along the path
MIN_HEIGHT = 0.1  # share of the path's width


@chart
def draw(motion: Trajectory) -> Tensor:
    """IMAGE [1, H, W, 3]."""
    places, shares = principal_plane(motion.tokens)
    steps = step_lengths(motion.tokens)
    figure = new_figure(10.0, 4.2)
    path, speed = figure.subplots(1, 2)
    across, up = places.T.tolist()
    path.plot(across, up, color="tab:blue", linewidth=1)
    path.scatter(across, up, c=range(len(motion)), cmap="viridis", zorder=2)
    for frame in range(0, len(motion), max(1, round(len(motion) / LABELS))):
        path.annotate(str(frame), (across[frame], up[frame]), textcoords="offset points", xytext=(5, 5), fontsize=8)
    first, second = (f"{100 * share:.0f} %" for share in shares)
    path.set_xlabel(f"first principal component ({first} of the variance)")
    path.set_ylabel(f"second ({second})")
    wide, high = places.abs().amax(dim=0).tolist()
    half = max(high, MIN_HEIGHT * wide) or 1.0  # hides rounding errors of a straight path
    path.set_ylim(-1.1 * half, 1.1 * half)
    path.grid(alpha=0.3)
    speed.bar(range(1, len(motion)), steps.tolist())
    speed.set_xlabel("frame")
    speed.set_ylabel("distance of its tokens from the frame before")
    speed.grid(axis="y", alpha=0.3)
    figure.suptitle(f"{motion.description} ({motion.token_space}, {len(motion)} frames)", fontsize=10)
    return picture_of(figure)
