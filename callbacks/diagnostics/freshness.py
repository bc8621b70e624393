"""Reading of a pool's pairs before training: the share of responses that the policy itself wrote."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from datamodules.contracts.stores import data_of, require
from datamodules.pool.scenarios import ScenarioPair, ScenarioView
from datamodules.pool.schema import POLICY
from lightning_modules.contracts import HasPolicy
from run_folder.files import append_row


def freshness(pairs: Iterable[ScenarioPair], fingerprint: str) -> dict[str, float]:
    """Shares of the responses in the pairs, both sides together, in [0, 1].

    Args:
        pairs: at least one.
        fingerprint: of the weights that training starts from.

    Returns:
        `freshness/policy`: drawn from the model that is aligned, in this round or an earlier one; `freshness/current`: drawn
        from exactly these weights. On-policy is 1 in both; the difference is what has gone stale.
    """
    responses = [response for pair in pairs for response in (pair.chosen, pair.rejected)]
    own = sum(response.source == POLICY for response in responses)
    current = sum(response.model == fingerprint for response in responses)
    return {"freshness/policy": own / len(responses), "freshness/current": current / len(responses)}


class PoolFreshness(Callback):
    """Logs `freshness/policy` and `freshness/current` when training starts, at step 0; they hold for step 1.

    From then on the policy moves away from its own samples: how far is `likelihood/...`, the change of their log-probs. Pairs that
    come from no pool do not say who wrote them: of those there is nothing to log.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed run is not where it started from: its weights have no pool.
        view = getattr(data_of(trainer), "view", None)
        if trainer.global_step or not isinstance(view, ScenarioView):
            return
        values = freshness(view.pairs, require(pl_module, HasPolicy).policy.fingerprint())
        for logger in trainer.loggers:
            logger.log_metrics(values, step=0)
        append_row(trainer, "freshness", {"step": 0, **values})
        rank_zero_info(
            f"Of the responses in the pairs {values['freshness/policy']:.0%} were drawn from the policy, "
            f"{values['freshness/current']:.0%} from the weights that training starts from."
        )
