"""Where a product lies in a photograph: one homography from product coordinates to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pose:
    """Shift in crop sides, turn in degrees (clockwise), scale, the two perspective terms of a homography."""

    dx: float = 0.0
    dy: float = 0.0
    angle: float = 0.0
    scale: float = 1.0
    tilt_x: float = 0.0
    tilt_y: float = 0.0


def draw_pose(rng: np.random.Generator, jitter: float = 1.0) -> Pose:
    """How differently good crops lie: at `jitter` 1 by 1.3 pixels of 256 and 0.75 degrees."""
    dx, dy = rng.normal(0, 0.005 * jitter, 2).clip(-0.015, 0.015)
    angle = float(np.clip(rng.normal(0, 0.75 * jitter), -2.5, 2.5))
    scale = 1 + float(np.clip(rng.normal(0, 0.0065 * jitter), -0.02, 0.02))
    tilt_x, tilt_y = rng.normal(0, 0.007 * jitter, 2)
    return Pose(float(dx), float(dy), angle, scale, float(tilt_x), float(tilt_y))


def homography(pose: Pose, size: float, centre: tuple[float, float] | None = None) -> np.ndarray:
    """The 3 x 3 map from product coordinates to pixel coordinates of a product `size` pixels wide.

    Pixel coordinates count from the outer corner of the first pixel: its middle is at 0.5.
    `centre` is where the product's centre lies without shift; the middle of a crop of that size if not given.
    """
    cx, cy = centre if centre is not None else (size / 2, size / 2)
    turn = np.deg2rad(pose.angle)
    cos, sin = pose.scale * np.cos(turn), pose.scale * np.sin(turn)
    in_plane = np.array([[cos, -sin, pose.dx], [sin, cos, pose.dy], [pose.tilt_x, pose.tilt_y, 1.0]])
    return np.array([[size, 0, cx], [0, size, cy], [0, 0, 1.0]]) @ in_plane


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) mapped by a homography."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return mapped[..., :2] / mapped[..., 2:]
