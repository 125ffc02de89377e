"""Vectors published by Unbound and BIND have the verdict that their authors expect, or a difference is named.

The keys of each file are trusted, as its authors do, and each signed set goes through the validator, at the time that
the file is for.
"""

import base64
from types import SimpleNamespace

import pytest
from support.published import SignedCase, VectorFile, read
from support.rfc_vectors import sets

from resolver.effects import Budget, Context, Need, Outcome, Question, Task
from resolver.validate import Validator, crypto_budget, nsec3, records, verify
from resolver.validate.anchors import Anchors
from resolver.validate.security_status import SecurityStatus
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

SECURE, INSECURE, BOGUS = Verdict.SECURE, Verdict.INSECURE, Verdict.BOGUS
UNBOUND = {file.name: file for file in read("unbound")}
BIND = {file.name: file for file in read("bind")}
FILES = [*UNBOUND.values(), *BIND.values()]
SIGNED = [file for file in FILES if file.signed]

DSA_OR_GOST = {3, 12}
"""RFC 8624 section 3.1 wants neither checked, and no library does: such a zone is as if unsigned."""
REVOKED_KEY = "test_sigs.revoked"
"""RFC 5011 section 2.1: a revoked key is of use for nothing but its own revocation, so a SOA set by it proves nothing.
Unbound's unit test looks at the signature alone."""
TWO_ALGORITHMS = "test_sigs.sha1_and_256"
"""Unbound wants a right signature of each algorithm of the keys there, as we do under `harden-algorithm-downgrade`;
otherwise one is enough (RFC 6840 section 5.11)."""
BIG_EXPONENT = "rsabigexponent/example.db.bad"
"""The exponent of its key has 49 bits. BIND refuses more than 35; we check what fits into 64."""


class NoCache:
    """Finds nothing."""

    def find(self, *_args: object, **_kwargs: object) -> None:
        return None

    closest_cut = find


class VectorValidator:
    """A validator that trusts the keys of one file, at the time of that file."""

    def __init__(self, file: VectorFile, *, sha1: bool = True, harden: bool = False) -> None:
        assert file.keys is not None
        zone = names.to_text(file.keys.name)
        anchors = [f"{zone} IN DNSKEY {key_text(rdata)}" for rdata in file.keys.rdatas()]
        self.file = file
        self.keys = file.keys
        self.validator = Validator(Anchors(anchors, ()), sha1=sha1, harden=harden)
        self.context = Context(SimpleNamespace(rrsets=NoCache(), denials=None), None, None)  # type: ignore[arg-type]
        self.context.now = file.now

    def status_of(self, rrset: RRset) -> SecurityStatus:
        """The status of the set."""
        question = Question(rrset.name, rrset.rtype)
        return self._play(lambda task: self.validator.chain.rrset(task, self.context, rrset, question), question)

    def status_of_keys(self, keys: RRset) -> SecurityStatus:
        """The status of a DNSKEY set by itself."""
        question = Question(keys.name, c.DNSKEY)
        return self._play(lambda task: self.validator.chain.dnskey(task, self.context, keys), question)

    def _play(self, story, question: Question) -> SecurityStatus:
        steps = story(Task(question, Budget(200, 1e9, 1000)))
        result: object = None
        while True:
            try:
                effect = steps.send(result)
            except StopIteration as end:
                return end.value
            if isinstance(effect, Need):
                assert effect.question == Question(self.file.zone(), c.DNSKEY)
                self.keys.verdict = INSECURE if self.status_of_keys(self.keys).verdict is INSECURE else SECURE
                result = Outcome(effect.question, c.NOERROR, [self.keys], [], self.keys.verdict, 60)
            else:
                result = [verify.check(job) for job in effect.jobs]


def key_text(rdata: bytes) -> str:
    return present.rdata_to_text(c.DNSKEY, rdata)


def right_signatures(file: VectorFile, rrset: RRset) -> list[bool]:
    """Of each signature whether some key of the file made it, by cryptography alone."""
    assert file.keys is not None
    keys = [records.parse_dnskey(rdata) for rdata in file.keys.rdatas()]
    found = []
    for sig in records.signatures(rrset, 10):
        data = records.signed_data(rrset, sig)
        found.append(
            any(
                verify.check(verify.SignatureJob(key.algorithm, key.key, sig.signature, data))
                for key in keys
                if key is not None and (key.tag, key.algorithm) == (sig.tag, sig.algorithm)
            )
        )
    return found


def expected(file: VectorFile, case: SignedCase) -> Verdict:
    """The verdict of its authors, except for the differences named above."""
    if file.algorithms() <= DSA_OR_GOST:
        return INSECURE
    if file.name == REVOKED_KEY:
        return BOGUS
    return SECURE if case.secure else BOGUS


def test_all_vectors_are_present() -> None:
    """What is not read cannot fail."""
    count = {name: len(file.signed) for name, file in (UNBOUND | BIND).items() if file.signed}
    assert count["test_signatures.1"] > 200
    assert len(count) == 22
    assert sum(count.values()) > 290
    assert sum(not case.secure for file in FILES for case in file.signed) == 4
    algorithms = set().union(*(file.algorithms() for file in SIGNED))
    assert algorithms == {3, 5, 8, 10, 12, 13, 14, 15, 16}


@pytest.mark.parametrize("file", SIGNED, ids=lambda file: file.name)
def test_signed_sets_get_their_verdict(file: VectorFile) -> None:
    vectors = VectorValidator(file, harden=file.name == TWO_ALGORITHMS)
    for case in file.signed:
        found = vectors.status_of(case.rrset)
        what = names.to_text(case.rrset.name), c.type_to_text(case.rrset.rtype)
        assert found.verdict is expected(file, case), (what, found.text)


@pytest.mark.parametrize("file", [f for f in SIGNED if not f.algorithms() <= DSA_OR_GOST], ids=lambda file: file.name)
def test_a_changed_signature_is_rejected(file: VectorFile) -> None:
    """One bit of each: none of the sets passes for a reason other than its signature."""
    vectors = VectorValidator(file)
    for rrset in (case.rrset for case in file.signed if case.secure):
        sigs = [sig[:-1] + bytes([sig[-1] ^ 1]) for sig in rrset.sigs()]
        damaged = RRset(rrset.name, rrset.rtype, rrset.ttl, rrset.rdatas(), sigs=sigs)
        assert vectors.status_of(damaged).verdict is BOGUS


@pytest.mark.parametrize("file", SIGNED, ids=lambda file: file.name)
def test_none_is_accepted_after_its_validity(file: VectorFile) -> None:
    vectors = VectorValidator(file)
    for rrset in (case.rrset for case in file.signed):
        vectors.context.now = max(sig.expiration for sig in records.signatures(rrset, 10)) + 1
        assert vectors.status_of(rrset).verdict != SECURE


@pytest.mark.parametrize("file", [f for f in SIGNED if f.algorithms() <= DSA_OR_GOST], ids=lambda file: file.name)
def test_keys_of_unsupported_algorithms_leave_their_zone_unsigned(file: VectorFile) -> None:
    assert file.keys is not None
    found = VectorValidator(file).status_of_keys(file.keys)
    assert (found.verdict, found.ede) == (INSECURE, c.EDE_UNSUPPORTED_DNSKEY_ALGORITHM)
    for case in file.signed:
        assert not any(right_signatures(file, case.rrset))


def test_without_sha1_the_old_zones_count_as_unsigned() -> None:
    old = [file for file in SIGNED if file.algorithms() == {verify.RSASHA1}]
    assert len(old) == 4
    for file in old:
        vectors = VectorValidator(file, sha1=False)
        assert {vectors.status_of(case.rrset).verdict for case in file.signed} == {INSECURE}


def test_a_revoked_key_validates_nothing_but_its_revocation() -> None:
    file = UNBOUND[REVOKED_KEY]
    (case,) = file.signed
    found = VectorValidator(file).status_of(case.rrset)
    assert (found.verdict, found.ede) == (BOGUS, c.EDE_DNSKEY_MISSING)
    assert right_signatures(file, case.rrset) == [True]  # the signature itself is right, as Unbound says


def test_with_two_algorithms_one_right_signature_is_enough() -> None:
    file = UNBOUND[TWO_ALGORITHMS]
    lenient, strict = VectorValidator(file), VectorValidator(file, harden=True)
    seen = {
        tuple(right_signatures(file, case.rrset)):
        (lenient.status_of(case.rrset).verdict, strict.status_of(case.rrset).verdict)
        for case in file.signed
    }
    assert seen == {
        (True, True): (SECURE, SECURE),
        (True, False): (SECURE, BOGUS),
        (False, True): (SECURE, BOGUS),
        (False, False): (BOGUS, BOGUS),
    }


@pytest.mark.parametrize("file", [f for f in FILES if f.digests], ids=lambda file: file.name)
def test_ds_records_match_the_keys_they_should(file: VectorFile) -> None:
    assert {case.match for case in file.digests} == {True, False}
    for case in file.digests:
        ds, key = records.parse_ds(case.ds.rdata(0)), records.parse_dnskey(case.dnskey.rdata(0))
        assert ds is not None
        assert key is not None
        assert crypto_budget.ds_matches(Budget(0, 0.0), ds, case.dnskey.name, key) is case.match


# --- hashes and bare signatures -------------------------------------------------------------------------------------


def hashed(name: str, zone: str, iterations: int, salt: bytes) -> str:
    budget = Budget(0, 0.0)
    prover = nsec3.Prover([], zone=names.from_text(zone), iterations=iterations, salt=salt, budget=budget, most=500)
    return base64.b32hexencode(prover.digest(names.lower(names.from_text(name)))).decode().lower()


@pytest.mark.parametrize("file", [f for f in FILES if f.hashes], ids=lambda file: file.name)
def test_nsec3_hashes(file: VectorFile) -> None:
    assert len(file.hashes) >= 12
    for case in file.hashes:
        assert case.algorithm == nsec3.SHA1
        assert hashed(case.name, case.name, case.iterations, case.salt) == case.digest, case.name


def test_the_nsec3_records_of_a_zone_are_the_hashes_of_its_names() -> None:
    file = BIND["nsec3param/nsec3.db.signed"]
    owners = {case.rrset.name for case in file.signed if case.rrset.rtype == c.NSEC3}
    params = next(case.rrset.rdata(0) for case in file.signed if case.rrset.rtype == c.type_from_text("NSEC3PARAM"))
    iterations, salt = int.from_bytes(params[2:4], "big"), params[5:]
    hashes = [hashed(name, "nsec3.", iterations, salt) for name in ("nsec3.", "ns1.nsec3.", "ns2.nsec3.")]
    assert {names.from_text(f"{text}.nsec3.") for text in hashes} == {names.lower(owner) for owner in owners}
    for case in file.signed:
        if case.rrset.rtype == c.NSEC3:
            record = nsec3.parse(case.rrset.name, case.rrset.rdata(0), names.from_text("nsec3."))
            assert record is not None
            following = base64.b32hexencode(record.next_hash).decode().lower()
            assert following in hashes


def test_bare_rsa_signatures() -> None:
    jobs = BIND["rsa_test.c"].raw
    assert [job.algorithm for job in jobs] == [verify.RSASHA1, verify.RSASHA256, verify.RSASHA512]
    for job in jobs:
        assert verify.check(job)
        for other in jobs:  # the same key and data under another hash
            swapped = verify.SignatureJob(other.algorithm, job.key, job.signature, job.data)
            assert verify.check(swapped) is (other is job)


def test_a_big_exponent_is_checked_up_to_64_bits() -> None:
    file = BIND[BIG_EXPONENT]
    assert file.keys is not None
    exponents = [rdata[5 : 5 + rdata[4]] for rdata in file.keys.rdatas()]
    assert sorted(int.from_bytes(e, "big").bit_length() for e in exponents) == [17, 49]
    job_key = file.keys.rdata(1)[4:]
    modulus = job_key[1 + job_key[0] :]
    (rrset,) = sets("example. A 192.0.2.1")
    dname_overflow = bytes([9, 1, *[0] * 7, 1]) + modulus
    assert not verify.check(verify.SignatureJob(verify.RSASHA256, dname_overflow, bytes(len(modulus)), rrset.packed))
