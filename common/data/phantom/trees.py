"""Branching trees that fill an organ: vessels and airways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Tree:
    """Nodes (N, 3) in mm; each node's parent comes before it (roots: -1)."""

    nodes: np.ndarray
    parents: np.ndarray

    def radii(self, tip: float, exponent: float, limit: float) -> np.ndarray:
        """Radius of every node in mm by Murray's law: ``r_parent^k = sum r_child^k``, tips of radius ``tip``."""
        n = len(self.nodes)
        tips = np.zeros(n)
        is_parent = np.zeros(n, dtype=bool)
        is_parent[self.parents[self.parents >= 0]] = True
        tips[~is_parent] = 1
        for i in range(n - 1, 0, -1):  # children come after their parents
            if self.parents[i] >= 0:
                tips[self.parents[i]] += tips[i]
        return np.minimum(tip * tips ** (1 / exponent), limit)


def grow(
    roots: Tree,
    targets: np.ndarray,
    rng: np.random.Generator,
    *,
    balance: float = 0.35,
    step: float = 4.0,
    wander: float = 0.8,
) -> Tree:
    """Connect every target at the node that costs least: distance plus ``balance`` times the way to the root.

    The balanced minimum spanning tree of Cuntz et al., "One rule to grow them all", PLoS Comput. Biol. 6(8), 2010.

    Args:
        roots: the tree to start from.
        targets: (M, 3) points to reach, in mm.
        rng: for the small sideways steps that make branches wind.
        balance: 0 gives the shortest total length, 1 nearly straight ways from the root.
        step: distance between the nodes of a branch in mm.
        wander: standard deviation of the sideways steps in mm.
    """
    order = np.argsort(np.linalg.norm(targets - roots.nodes[0], axis=1))
    capacity = len(roots.nodes) + int(sum(np.ceil(120 / step) for _ in targets))
    nodes = np.zeros((capacity, 3))
    parents = np.full(capacity, -1)
    way = np.zeros(capacity)
    n = len(roots.nodes)
    nodes[:n], parents[:n] = roots.nodes, roots.parents
    for i in range(n):
        if parents[i] >= 0:
            way[i] = way[parents[i]] + np.linalg.norm(nodes[i] - nodes[parents[i]])
    for target in targets[order]:
        offset = nodes[:n] - target
        distance = np.sqrt(np.einsum("ij,ij->i", offset, offset))
        start = int(np.argmin(distance + balance * way[:n]))
        count = min(max(int(distance[start] / step), 1), capacity - n)
        if count < 1:
            break
        t = (np.arange(1, count + 1) / count)[:, None]
        branch = nodes[start] + (target - nodes[start]) * t
        branch[:-1] += rng.normal(0, wander, (count - 1, 3))
        nodes[n : n + count] = branch
        parents[n : n + count] = [start, *range(n, n + count - 1)]
        way[n : n + count] = way[start] + distance[start] * t[:, 0]
        n += count
    return Tree(nodes[:n].copy(), parents[:n].copy())


def balls(nodes: np.ndarray, parents: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Balls (N, 3), (N,) along all branches, close enough to look like tubes."""
    child = np.flatnonzero(parents >= 0)
    start, stop = nodes[parents[child]], nodes[child]
    r = np.minimum(radii[parents[child]], 1.3 * radii[child])
    n = np.maximum(np.ceil(np.linalg.norm(stop - start, axis=1) / np.maximum(0.6 * r, 0.8)).astype(int), 1)
    which = np.repeat(np.arange(len(child)), n)
    t = (np.arange(len(which)) - np.repeat(np.cumsum(n) - n, n) + 1) / np.repeat(n, n)
    return start[which] + (stop - start)[which] * t[:, None], r[which] + (radii[child] - r)[which] * t
