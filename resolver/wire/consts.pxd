# The numbers that Cython modules use; consts.py has the complete list for Python.
# Anonymous enums, so that they are compile-time constants and need no module at run time.
# The prefixes T_ and C_ avoid conflicts between short mnemonics and local names.

cdef enum:
    T_A = 1
    T_NS = 2
    T_MD = 3
    T_MF = 4
    T_CNAME = 5
    T_SOA = 6
    T_MB = 7
    T_MG = 8
    T_MR = 9
    T_WKS = 11
    T_PTR = 12
    T_HINFO = 13
    T_MINFO = 14
    T_MX = 15
    T_TXT = 16
    T_RP = 17
    T_AFSDB = 18
    T_X25 = 19
    T_ISDN = 20
    T_RT = 21
    T_SIG = 24
    T_KEY = 25
    T_PX = 26
    T_GPOS = 27
    T_AAAA = 28
    T_LOC = 29
    T_NXT = 30
    T_SRV = 33
    T_NAPTR = 35
    T_KX = 36
    T_CERT = 37
    T_A6 = 38
    T_DNAME = 39
    T_OPT = 41
    T_APL = 42
    T_DS = 43
    T_SSHFP = 44
    T_IPSECKEY = 45
    T_RRSIG = 46
    T_NSEC = 47
    T_DNSKEY = 48
    T_DHCID = 49
    T_NSEC3 = 50
    T_NSEC3PARAM = 51
    T_TLSA = 52
    T_SMIMEA = 53
    T_HIP = 55
    T_NINFO = 56
    T_RKEY = 57
    T_TALINK = 58
    T_CDS = 59
    T_CDNSKEY = 60
    T_OPENPGPKEY = 61
    T_CSYNC = 62
    T_ZONEMD = 63
    T_SVCB = 64
    T_HTTPS = 65
    T_SPF = 99
    T_NID = 104
    T_L32 = 105
    T_L64 = 106
    T_LP = 107
    T_EUI48 = 108
    T_EUI64 = 109
    T_TSIG = 250
    T_URI = 256
    T_CAA = 257
    T_AVC = 258
    T_AMTRELAY = 260
    T_RESINFO = 261
    T_WALLET = 262
    T_CLA = 263
    T_TA = 32768
    T_DLV = 32769

cdef enum:
    C_IN = 1

cdef enum:
    F_QR = 0x8000
    F_OPCODE = 0x7800
    F_AA = 0x0400
    F_TC = 0x0200
    F_RD = 0x0100
    F_RA = 0x0080
    F_Z = 0x0040
    F_AD = 0x0020
    F_CD = 0x0010
    F_RCODE = 0x000F
    EDNS_DO = 0x8000

cdef enum:
    O_COOKIE = 10
    O_KEEPALIVE = 11
    O_PADDING = 12
    O_EDE = 15

# Bytes of a cookie option (RFC 7873 section 4): a client cookie, and the limits with a server cookie.
cdef enum:
    COOKIE_CLIENT_SIZE = 8
    COOKIE_MIN = 16
    COOKIE_MAX = 40

# Error codes of this package's C functions, which cannot raise; errors.py has the messages.
cdef enum:
    E_HEADER = -1
    E_TRUNCATED = -2
    E_LABEL = -3
    E_NAME_LONG = -4
    E_POINTER = -5
    E_HOPS = -6
    E_COMPRESSED = -7
    E_RDATA_SHORT = -8
    E_RDATA_LONG = -9
    E_RDATA_NAME = -10
    E_BITMAP = -11
    E_STRING = -12
    E_TRAILING = -13
    E_MESSAGE_RECORDS = -14
    E_SET_RECORDS = -15
    E_SET_BYTES = -16
    E_OPT_TWICE = -17
    E_OPT_PLACE = -18
    E_OPTIONS = -19
    E_EXPANDED = -20
    E_COOKIE = -21
    E_SVCPARAMS = -22
    E_APL = -23

cdef enum:
    NAME_MAX = 255        # bytes of a name in wire form (RFC 1035 section 2.3.4)
    LABELS_MAX = 128      # labels in such a name, including the root
    HEADER_SIZE = 12
    OPT_SIZE = 11         # an OPT record without options (RFC 6891 section 6.1.2)
    MESSAGE_MAX = 65535
    PAYLOAD_MIN = 512     # largest UDP message without EDNS, in bytes (RFC 1035 section 2.3.4)

cdef enum:
    ANSWER = 1
    AUTHORITY = 2
    ADDITIONAL = 3
