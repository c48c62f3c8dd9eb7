"""Certificates: proofs of brackets that anybody can check. Making and checking one needs python-flint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fenchel.arrays import Array
from fenchel.certificates.record import Certificate
from fenchel.errors import missing

if TYPE_CHECKING:
    from fenchel.checker import Checked

__all__ = ["Certificate", "check", "of_biconjugate", "of_conjugate", "of_relaxed_bayes", "of_sam"]


def _need_flint() -> None:
    try:
        import flint  # noqa: F401
    except ImportError as error:
        raise missing("a certificate", "python-flint", "check") from error


def check(certificate: Certificate | dict[str, Any]) -> Checked:
    """Prove the claim of a certificate again, in ball arithmetic and rationals, with none of the solver's code.

    Returns:
        ``valid``: the recorded claim is proved; ``lower``, ``upper``: the bracket that is proved, rounded outwards
        (it may be narrower than the claim); ``message``: what could not be proved, ``seconds``, ``boxes``.

    Raises:
        TypeError: neither a certificate nor a dictionary. MissingDependencyError: python-flint is missing.
    """
    _need_flint()
    from fenchel.checker import check_record

    record = certificate if isinstance(certificate, dict) else getattr(certificate, "record", None)
    if not isinstance(record, dict):
        raise TypeError(f"certificate must be a Certificate or a dict, got {type(certificate).__name__}.")
    return check_record(record)


def of_biconjugate(loss: Any, mean: Array, cov: Array, result: Any) -> Certificate:
    """See `BiconjugateResult.certificate`."""
    _need_flint()
    from fenchel.certificates.build import PRECISE, biconjugate_certificate
    from fenchel.certificates.prove import Limits

    with PRECISE():
        return biconjugate_certificate(loss, result, mean, cov, Limits())


def of_relaxed_bayes(q: Any, prior: Any, result: Any) -> Certificate:
    """The certificate of f** with what turns it into -f** + KL (Eq. 11)."""
    _need_flint()
    from fenchel.certificates.build import PRECISE, relaxed_bayes_certificate

    with PRECISE():
        return relaxed_bayes_certificate(result, q, prior)


def of_conjugate(loss: Any, lam1: Array, lam2: Array, prior: Any, result: Any) -> Certificate:
    """Of f*, or with a prior of f* - log Z' (Eq. 18)."""
    _need_flint()
    from fenchel.certificates.build import PRECISE, conjugate_certificate
    from fenchel.certificates.prove import Limits

    with PRECISE():
        return conjugate_certificate(loss, result, lam1, lam2, prior, Limits())


def of_sam(loss: Any, theta: Array, rho: float, delta: float, result: Any) -> Certificate:
    """Of the SAM objective (Eq. 1)."""
    _need_flint()
    from fenchel.certificates.build import PRECISE, sam_certificate
    from fenchel.certificates.prove import Limits

    with PRECISE():
        return sam_certificate(loss, result, theta, rho, delta, Limits())
