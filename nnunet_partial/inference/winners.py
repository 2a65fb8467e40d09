"""Which channel wins a voxel, and which channels can win anywhere between voxels.

Winners are numbers of channels counted from 1; 0 is no channel.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Decoding

__all__ = ["Argmax", "LastRegion", "Logits", "Rule", "Winners", "rule_of"]

Logits = NDArray[np.floating[Any]]
Winners = NDArray[np.unsignedinteger[Any]]


class Rule(Protocol):
    """How channels compete for a voxel."""

    def winners(self, logits: Logits, highest: Logits, dtype: type[np.unsignedinteger[Any]]) -> Winners:
        """The winner of each voxel.

        Args:
            logits: (C, Y, X).
            highest: (C, Y), the highest logit of each row.
            dtype: Of the result.

        Returns:
            (Y, X).
        """

    def contenders(self, highest: Logits, lows: Logits) -> NDArray[np.bool_]:
        """The channels that may win somewhere in a region; what `candidates` would find is among them.

        Args:
            highest: (C,), highest logit in the region.
            lows: (k, n), lowest logit of the neighbours of n places, of any channels, at least one.

        Returns:
            (C,).
        """

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """The channels that may win somewhere between neighbouring voxels; whatever wins there is one of them.

        Args:
            lows: (C, n), lowest logit of the neighbours.
            highs: (C, n), highest logit of the neighbours.

        Returns:
            (C, n).
        """


class Argmax:
    """The channel with the highest logit; of equal ones the first."""

    def winners(self, logits: Logits, highest: Logits, dtype: type[np.unsignedinteger[Any]]) -> Winners:
        """See `Rule`."""
        best = logits[0].astype(np.float32)
        winner = np.ones(best.shape, dtype)
        floor = best.min(-1)
        for channel in range(1, len(logits)):
            # most channels win nothing in most rows
            rows = np.flatnonzero(highest[channel] > floor)
            if rows.size == 0:
                continue
            values, so_far, won = logits[channel, rows], best[rows], winner[rows]
            np.putmask(won, values > so_far, channel + 1)
            np.maximum(so_far, values, out=so_far)
            best[rows], winner[rows], floor[rows] = so_far, won, so_far.min(-1)
        return winner

    def contenders(self, highest: Logits, lows: Logits) -> NDArray[np.bool_]:
        """See `Rule`: below the lowest of what these channels reach everywhere, nothing wins."""
        return np.asarray(highest >= lows.max(0).min())

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """See `Rule`: an average of a channel is at most its highest value, that of the winner at least its lowest."""
        return np.asarray(highs >= lows.max(0))


class LastRegion:
    """The last channel whose logit is above 0, that is its probability above one half."""

    def winners(self, logits: Logits, highest: Logits, dtype: type[np.unsignedinteger[Any]]) -> Winners:
        """See `Rule`."""
        winner = np.zeros(logits.shape[1:], dtype)
        for channel in range(len(logits)):
            rows = np.flatnonzero(highest[channel] > 0)
            if rows.size:
                won = winner[rows]
                np.putmask(won, logits[channel, rows] > 0, channel + 1)
                winner[rows] = won
        return winner

    def contenders(self, highest: Logits, lows: Logits) -> NDArray[np.bool_]:
        """See `Rule`: what is not above 0 anywhere wins nowhere."""
        return np.asarray(highest > 0)

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """See `Rule`: a channel that is above 0 everywhere hides all before it."""
        number = np.arange(1, len(lows) + 1)[:, None]
        certain = ((lows > 0) * number).max(0)
        return np.asarray((highs > 0) & (number >= certain))


def rule_of(decoding: Decoding) -> Rule:
    """The rule of a model.

    Args:
        decoding: What its channels mean.
    """
    return LastRegion() if decoding.regions else Argmax()
