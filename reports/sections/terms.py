"""Explains the page's terms in the page, for readers who have nothing else."""

from __future__ import annotations

from html import escape

TERMS = {
    "chosen, rejected": "The two answers of a pair: the one that was preferred, and the other one.",
    "log-likelihood": (
        "Log of the probability that the policy gives to a whole answer, in nats (natural logarithm): 0 is certain, and "
        "one nat less is a factor of 2.7. Per token: divided by the answer's length."
    ),
    "policy, reference": "The model that is trained, and the same model as it was before training.",
    "reward, margin": (
        "The objective's reward is beta times the log of how much likelier an answer has become. The margin is the reward of "
        "chosen minus that of rejected; it can grow while both fall."
    ),
    "probe bank": ("A fixed set of pairs that is read again and again, so that its curves compare the same answers at every step."),
    "probes": (
        "Answers outside the pairs: another prompt's chosen answer (other chosen), the chosen words in random order "
        "(permuted), answers drawn before training (reference sample), answers that no pair uses (leftover)."
    ),
    "drop share": (
        "Part of the margin's growth that comes from pushing rejected down. 0: all from chosen; 1: all from rejected; "
        "above 1: chosen fell too."
    ),
    "drop gap": "Change of rejected minus change of chosen. The lower, the more drastic the drop.",
    "valley": "Rejected tokens with a probability below 0.001: pushing them further moves mass to whatever is likeliest.",
    "off-data mass": "Probability of next tokens that no known answer to the prompt has there.",
    "mass off the pair": "Probability of everything but the two tokens at which chosen and rejected part.",
    "dispersion index": "Gain of the probes over the pair. Above 0: answers outside the pairs gain on those inside.",
    "entropy": "Uncertainty of the policy about the next token, in nats: 0 is certain.",
    "gradient, push": "Strength and direction in which the loss moves the scores (logits) of a token at a step.",
    "disentanglement band": (
        "The range of push on rejected, in units of that on chosen, in which a step raises chosen and lowers rejected."
    ),
    "accuracy of the task": (
        "Share of held-out problems whose answer a judge accepts; the only number here that measures answers."
    ),
}
"""Term -> what it means, in a sentence or two."""

STYLE = "dl { max-width: 62rem } dt { font-weight: 650; margin-top: .5rem } dd { margin: 0; color: var(--soft) }"
"""What `terms_html` needs of its page."""


def terms_html() -> str:
    """All terms."""
    return f"<dl>{''.join(f'<dt>{escape(term)}</dt><dd>{escape(words)}</dd>' for term, words in TERMS.items())}</dl>"
