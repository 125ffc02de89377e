# C layout of the classes of effects.py, for its compilation by Cython: they become extension types, whose attributes are
# accessed without a dictionary or a descriptor. Without compilation this file is not used.
# tests/unit/resolver/test_effects.py compares the names here with ``__slots__`` there.

from resolver.query cimport Applied


cdef class Failure:
    cdef public object ede
    cdef public object kind
    cdef public object name
    cdef public object text
    cdef public object verdict


cdef class Question:
    cdef public object key
    cdef public object qclass
    cdef public object qname
    cdef public object qtype


cdef class Server:
    cdef public object address
    cdef public double edns_broken_until
    cdef public object encryption
    cdef public object key
    cdef public object name
    cdef public object port


cdef class Ask:
    cdef public object budget
    cdef public bint checking_disabled
    cdef public object cookie
    cdef public bint do
    cdef public object edns_payload
    cdef public bint joined
    cdef public object qname
    cdef public object qtype
    cdef public bint randomise_case
    cdef public bint rd
    cdef public Server server
    cdef public bint tcp
    cdef public object timeout
    cdef public object zone
    cdef public object subnet


cdef class Need:
    cdef public object purpose
    cdef public Question question


cdef class SignatureJob:
    cdef public object algorithm
    cdef public object data
    cdef public object key
    cdef public object signature


cdef class Verify:
    cdef public object jobs


cdef class Pause:
    cdef public object seconds


cdef class Fetch:
    cdef public object budget
    cdef public object qname
    cdef public object qtype


cdef class Reply:
    cdef public object connection
    cdef public object cookie
    cdef public object rtt
    cdef public Server server
    cdef public bint tcp
    cdef public object view


cdef class RawReply:
    cdef public object aa
    cdef public object alias
    cdef public object answer
    cdef public object denied
    cdef public object name
    cdef public object proofs
    cdef public object qname
    cdef public object qtype
    cdef public object rcode
    cdef public object server
    cdef public object soa
    cdef public object synthesised
    cdef public object ttl
    cdef public object zone
    cdef public object scope


cdef class Outcome:
    cdef public object additional
    cdef public object answer
    cdef public Applied applied
    cdef public object authoritative
    cdef public object authority
    cdef public object ede
    cdef public object embedded
    cdef public object failure
    cdef public object from_cache
    cdef public object question
    cdef public object rcode
    cdef public object referral
    cdef public object serial
    cdef public object stale
    cdef public object synthesised
    cdef public object ttl
    cdef public object verdict
    cdef public object scope


cdef class TraceStep:
    cdef public object at
    cdef public object depth
    cdef public object facts
    cdef public object kind
    cdef public object qname
    cdef public object qtype
    cdef public object rcode
    cdef public object rtt
    cdef public object server
    cdef public object text
    cdef public object zone


cdef class Budget:
    cdef public long accounted_octets
    cdef public object deadline
    cdef public dict failed
    cdef public object failure
    cdef public object fetching
    cdef public object hashes
    cdef public dict insecure
    cdef public long lookups
    cdef public long missing
    cdef public long octets
    cdef public object packets
    cdef public long queries
    cdef public object exhausted
    cdef public bint shortened
    cdef public object verifications
    cdef public object subnet


cdef class Task:
    cdef public Outcome answered
    cdef public Budget budget
    cdef public object cd
    cdef public object depth
    cdef public object cache_checked
    cdef public long octets
    cdef public object purpose
    cdef public Question question
    cdef public object child_ns
    cdef public bint told_subnet
    cdef public object local_error
    cdef public object cycle
    cdef public object trace


cdef class Context:
    cdef public object dns64
    cdef public object has_server_rules
    cdef public object monotonic
    cdef public object name_server
    cdef public object now
    cdef public object on_query_end
    cdef public object policy
    cdef public object sub_policy
    cdef public bint reads_second_level
    cdef public object response
    cdef public object rng
    cdef public object delegations
    cdef public object second_level
    cdef public object settings
    cdef public object store
    cdef public bint shares_failures
    cdef public object validation
    cdef public object validator
    cdef public object view
    cdef public object subnets
