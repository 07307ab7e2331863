/* SPDX-License-Identifier: MIT */
/*
 * wg.h - the WireGuard protocol: its four messages, without sockets, timers or peers.
 *
 * Theory of operation (Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", NDSS 2017; the names are
 * the paper's): two parties that know each other's static public keys agree on a session by one message each
 * way, Noise_IKpsk2 over X25519, ChaCha20-Poly1305 and BLAKE2s. Both bring an ephemeral key that is forgotten at
 * once, so who steals a static key later reads nothing of the past. What follows are datagrams with a counter, which is
 * the nonce, and is never used twice with one key: keys live in this memory alone, and a process that starts anew
 * agrees on new ones.
 *
 * Before anything costly is done for a message its mac1 proves that the sender knows our public key, and under load its
 * mac2 that it receives what is sent to its address (cookie.c).
 *
 * All numbers on the wire are little-endian, and so are the hosts that we run on.
 */
#ifndef NET_VPN_WG_H
#define NET_VPN_WG_H

#include "base/base.h"

#define WG_KEY          32u
#define WG_TAG          16u
#define WG_MAC          16u
#define WG_STAMP        12u /* TAI64N */
#define WG_HEADER       16u /* of a transport message, before the ciphertext */
#define WG_OVERHEAD     (WG_HEADER + WG_TAG)
#define WG_LAST_COUNTER (UINT64_MAX - (1u << 13)) /* REJECT_AFTER_MESSAGES */

enum wg_type { WG_INITIATION = 1, WG_RESPONSE, WG_COOKIE, WG_TRANSPORT };

/* The messages as on the wire; @type's other three bytes are zero. */
struct wg_macs {
    uint8_t mac1[WG_MAC], mac2[WG_MAC];
};
struct wg_initiation {
    uint32_t type, sender;
    uint8_t ephemeral[WG_KEY], static_[WG_KEY + WG_TAG], stamp[WG_STAMP + WG_TAG];
    struct wg_macs macs;
};
struct wg_response {
    uint32_t type, sender, receiver;
    uint8_t ephemeral[WG_KEY], nothing[WG_TAG];
    struct wg_macs macs;
};
struct wg_cookie {
    uint32_t type, receiver;
    uint8_t nonce[24], cookie[WG_MAC + WG_TAG];
};
_Static_assert(sizeof(struct wg_initiation) == 148 && sizeof(struct wg_response) == 92 &&
                   sizeof(struct wg_cookie) == 64,
               "as on the wire");

/* ---- BLAKE2s (hash.c) ---- */

/** wg_hash_init() - find what hashes; from open(), since a confined process can load nothing. */
int wg_hash_init(struct dt_error *err);
/** wg_hash() - of @a and @b, one after the other. */
void wg_hash(uint8_t out[WG_KEY], const void *a, size_t na, const void *b, size_t nb);
/** wg_mac() - keyed, of 16 bytes. */
void wg_mac(uint8_t out[WG_MAC], const uint8_t *key, size_t nkey, const void *data, size_t n);
/** wg_kdf() - HKDF of the chaining key @chain, which is the first of the outputs, and up to two more, or NULL. */
void wg_kdf(uint8_t chain[WG_KEY], uint8_t *second, uint8_t *third, const void *input, size_t n);

/* ---- The handshake (noise.c) ---- */

/** struct wg_self - we. */
struct wg_self {
    uint8_t private_[WG_KEY], public_[WG_KEY];
    uint8_t mac1_key[WG_KEY], cookie_key[WG_KEY];
};
/** struct wg_remote - a peer. @shared: of both static keys; @psk: zero where none was agreed on. */
struct wg_remote {
    uint8_t public_[WG_KEY], psk[WG_KEY], shared[WG_KEY];
    uint8_t mac1_key[WG_KEY], cookie_key[WG_KEY];
};
/** struct wg_handshake - what is known so far; of the initiator, @ephemeral is private, else the other's public one. */
struct wg_handshake {
    uint8_t ephemeral[WG_KEY], hash[WG_KEY], chain[WG_KEY];
    uint32_t local, remote;
};
/** struct wg_keys - what a handshake ends with. */
struct wg_keys {
    uint8_t send[WG_KEY], receive[WG_KEY];
};

/** wg_self_init() - from the private key, which is there. */
void wg_self_init(struct wg_self *self);
/** wg_remote_init() - from the public key and @psk, which are there. -EINVAL for a key that is none. */
int wg_remote_init(const struct wg_self *self, struct wg_remote *remote);
/** wg_initiation_make() - all but the macs; @hs->local is set. */
int wg_initiation_make(const struct wg_self *self, const struct wg_remote *remote,
                       struct wg_handshake *hs, const uint8_t stamp[WG_STAMP],
                       struct wg_initiation *m);
/** wg_initiation_read() - who sent it? It is a claim until wg_initiation_prove(). Both: 0 or -EBADMSG. */
int wg_initiation_read(const struct wg_self *self, const struct wg_initiation *m,
                       struct wg_handshake *hs, uint8_t public_[WG_KEY]);
int wg_initiation_prove(const struct wg_remote *remote, const struct wg_initiation *m,
                        struct wg_handshake *hs, uint8_t stamp[WG_STAMP]);
/** wg_response_make() - all but the macs, and the responder's keys; @hs->local is set, and @hs is wiped. */
int wg_response_make(const struct wg_remote *remote, struct wg_handshake *hs, struct wg_response *m,
                     struct wg_keys *keys);
/** wg_response_read() - the initiator's keys; @hs is unchanged. 0 or -EBADMSG. */
int wg_response_read(const struct wg_self *self, const struct wg_remote *remote,
                     const struct wg_handshake *hs, const struct wg_response *m,
                     struct wg_keys *keys);

/* ---- Datagrams (session.c) ---- */

#define WG_WINDOW_WORDS 128u /* 8,192 datagrams, less a word */

/**
 * struct wg_session - keys that both sides have.
 * @live:    there is one.
 * @local, @remote: how messages to us and to the peer name it.
 * @counter: of the next datagram that is sent.
 * @newest:  one more than the greatest counter that came; @window has a bit for each before it (RFC 6479).
 * @born:    ns of dt_clock_ns().
 */
struct wg_session {
    bool live, initiator;
    uint32_t local, remote;
    struct wg_keys keys;
    uint64_t counter, newest, born;
    uint64_t window[WG_WINDOW_WORDS];
};

struct wg_cipher;
/** wg_cipher_new() - of one thread; before it is confined. NULL if there is none. */
struct wg_cipher *wg_cipher_new(void);
void wg_cipher_free(struct wg_cipher *c);

/** wg_session_seal() - a message of @n bytes at @plain, which may be @message + WG_HEADER, into @message. Return: its
 *  length, n + WG_OVERHEAD; 0 when the counter has come to its end. */
size_t wg_session_seal(struct wg_cipher *c, struct wg_session *s, uint8_t *message,
                       const uint8_t *plain, size_t n);
/** wg_session_open() - in place: the plaintext is at @message + WG_HEADER. Return: its length, -EBADMSG for what the peer
 *  did not send, -EALREADY for what came before or is too old to know. */
ssize_t wg_session_open(struct wg_cipher *c, struct wg_session *s, uint8_t *message, size_t n);

/* ---- Against floods (cookie.c) ---- */

#define WG_SOURCES 256u

/**
 * struct wg_guard - of us, as receiver of handshakes.
 * @secret: what cookies are made with, changed at @secret_until.
 * @second, @seen, @from: in the present second, all handshakes and those by source.
 */
struct wg_guard {
    uint8_t secret[WG_KEY];
    uint64_t secret_until, second;
    uint32_t seen;
    uint8_t from[WG_SOURCES];
};
/** struct wg_pass - of a peer: the cookie that it gave us, and what it needs to be read. */
struct wg_pass {
    uint8_t cookie[WG_MAC], mac1[WG_MAC];
    uint64_t until; /* of the cookie; 0 = none */
};

enum wg_verdict { WG_GO_ON, WG_ASK_COOKIE, WG_REFUSE };
/**
 * wg_guard_judge() - may @n bytes of a handshake message, which end with its macs, cost us an agreement?
 * @source, @nsource: address and port that it came from; the first @nhost bytes are the host's.
 */
enum wg_verdict wg_guard_judge(struct wg_guard *g, const struct wg_self *self, const void *message,
                               size_t n, const uint8_t *source, size_t nsource, size_t nhost,
                               uint64_t now);
/** wg_cookie_make() - the answer WG_ASK_COOKIE asks for. */
void wg_cookie_make(struct wg_guard *g, const struct wg_self *self, uint32_t receiver,
                    const struct wg_macs *macs, const uint8_t *source, size_t nsource, uint64_t now,
                    struct wg_cookie *m);
/** wg_cookie_read() - a peer's cookie. 0 or -EBADMSG. */
int wg_cookie_read(struct wg_pass *pass, const struct wg_remote *remote, const struct wg_cookie *m,
                   uint64_t now);
/** wg_stamp_macs() - complete @n bytes of a handshake message to @remote. */
void wg_stamp_macs(struct wg_pass *pass, const struct wg_remote *remote, void *message, size_t n,
                   uint64_t now);

#endif
