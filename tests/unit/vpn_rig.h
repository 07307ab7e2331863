/* SPDX-License-Identifier: MIT */
/* vpn_rig.h - a card with the back `vpn`, two peers in the test's hands, and time that passes as the test says. */
#ifndef TESTS_VPN_RIG_H
#define TESTS_VPN_RIG_H

#include "net/vpn/vpn.h"
#include "tests/unit/net_peer.h"
#include "tests/unit/vpn_hand.h"

extern const struct dt_net_ext net_vpn;

/* a, b: the peers. own: the card's keys, and as text. conf_text: its configuration. f: the frame last made. */
extern struct hand a, b;
extern struct wg_self own;
extern char own_text[45], own_public[45], conf_text[4000];
extern struct frame f;

/* Of the group, and of each test. */
int vpn_rig_begin(void **state);
int vpn_rig_clean(void **state);
int setup(void **state);
int teardown(void **state);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/** add_conf() - lines; add_peer() - a section. */
void add_conf(const char *fmt, ...) DT_PRINTF(1, 2);
void add_peer(const struct hand *h, bool endpoint, const char *more);
void write_conf(mode_t mode);
/** chain_of() - with the configuration as it was written last. */
const char *chain_of(const char *options);
void start(const char *options);
/** start_two() - with sessions with both peers, of which we began that with a. */
void start_two(const char *options);
void pass(uint64_t ns);

#define GUEST 1
#define MAC_A 0xa
#define MAC_B 0xb
#define ALL   0xff
/** make_frame() - of random bytes, between addresses with these last bytes. */
void make_frame(uint8_t from, uint8_t to, uint32_t length);
/** from_guest(), from_hand() - send one. */
void from_guest(uint8_t to);
void from_hand(struct hand *h, uint8_t from, uint8_t to);
/** expect_guest() - one more came, and it is @f. */
void expect_guest(void);
/** expect_count() - a counter comes to @n, and no further. */
void expect_count(const char *counter, uint64_t n);
uint16_t mtu(void);

#endif
