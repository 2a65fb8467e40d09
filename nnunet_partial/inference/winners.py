"""Which channel wins a voxel, and which channels can win anywhere between voxels.

Winners are numbers of channels counted from 1; 0 is no channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_partial.inference.model.plan import Decoding

__all__ = ["Argmax", "Contest", "LastRegion", "Logits", "Rule", "Winners", "rule_of"]

Logits = NDArray[np.floating[Any]]
Winners = NDArray[np.unsignedinteger[Any]]


class Contest(Protocol):
    """A plane for which channels compete one after the other.

    Attributes:
        winner: (Y, X), of the channels so far.
    """

    winner: Winners

    def enter(self, number: int, logits: Logits, highest: Logits) -> None:
        """The next channel.

        Args:
            number: 1 for the first one, then rising.
            logits: (Y, X); not kept.
            highest: (Y,), the highest logit of each row.
        """


class Rule(Protocol):
    """How channels compete for a voxel."""

    def contest(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> Contest:
        """A plane that no channel has entered.

        Args:
            shape: (Y, X).
            dtype: Of the winners.
        """

    def winners(self, logits: Logits, highest: Logits, dtype: type[np.unsignedinteger[Any]]) -> Winners:
        """The winner of each voxel.

        Args:
            logits: (C, Y, X).
            highest: (C, Y), the highest logit of each row.
            dtype: Of the result.

        Returns:
            (Y, X).
        """
        contest = self.contest(logits.shape[1:], dtype)
        for channel, (entered, of_rows) in enumerate(zip(logits, highest, strict=True)):
            contest.enter(channel + 1, entered, of_rows)
        return contest.winner

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


class _HighestSoFar:
    """See `Contest`: the channel with the highest logit so far."""

    def __init__(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> None:
        self.winner: Winners = np.ones(shape, dtype)
        self._best = np.empty(shape, np.float32)
        self._floor = np.empty(shape[0], np.float32)

    def enter(self, number: int, logits: Logits, highest: Logits) -> None:
        """See `Contest`."""
        if number == 1:
            self._best[...] = logits
            self._floor[...] = self._best.min(-1)
            return
        # most channels win nothing in most rows
        rows = np.flatnonzero(highest > self._floor)
        if rows.size == 0:
            return
        values, best, winner = logits[rows], self._best[rows], self.winner[rows]
        np.putmask(winner, values > best, number)
        np.maximum(best, values, out=best)
        self._best[rows], self.winner[rows], self._floor[rows] = best, winner, best.min(-1)


class _LastAboveZero:
    """See `Contest`: the last channel above 0 so far."""

    def __init__(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> None:
        self.winner: Winners = np.zeros(shape, dtype)

    def enter(self, number: int, logits: Logits, highest: Logits) -> None:
        """See `Contest`."""
        rows = np.flatnonzero(highest > 0)
        if rows.size:
            winner = self.winner[rows]
            np.putmask(winner, logits[rows] > 0, number)
            self.winner[rows] = winner


class Argmax(Rule):
    """The channel with the highest logit; of equal ones the first."""

    def contest(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> Contest:
        """See `Rule`."""
        return _HighestSoFar(shape, dtype)

    def contenders(self, highest: Logits, lows: Logits) -> NDArray[np.bool_]:
        """See `Rule`: below the lowest of what these channels reach everywhere, nothing wins."""
        return np.asarray(highest >= lows.max(0).min())

    def candidates(self, lows: Logits, highs: Logits) -> NDArray[np.bool_]:
        """See `Rule`: an average of a channel is at most its highest value, that of the winner at least its lowest."""
        return np.asarray(highs >= lows.max(0))


class LastRegion(Rule):
    """The last channel whose logit is above 0, that is its probability above one half."""

    def contest(self, shape: Sequence[int], dtype: type[np.unsignedinteger[Any]]) -> Contest:
        """See `Rule`."""
        return _LastAboveZero(shape, dtype)

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
