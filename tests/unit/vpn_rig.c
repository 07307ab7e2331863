/* SPDX-License-Identifier: MIT */
/* vpn_rig.c - see vpn_rig.h. */
#include "tests/unit/vpn_rig.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

struct hand a, b;
static struct sockaddr_in card;
struct wg_self own;
char own_text[45], own_public[45], conf_text[4000];
static char conf_path[200];
struct frame f;

/* ---- A card ---- */

static void free_port(struct sockaddr_in *at)
{
    socklen_t size = sizeof(*at);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(bind(fd, (struct sockaddr *)at, size), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)at, &size), 0);
    close(fd);
}

int setup(void **state)
{
    struct dt_error err;

    assert_int_equal(wg_hash_init(&err), 0);
    hand_keys(own.private_, own_text, own_public);
    wg_self_init(&own);
    free_port(&card);
    hand_open(&a, own.public_, &card);
    hand_open(&b, own.public_, &card);
    conf_text[0] = '\0';
    test_clock = DT_S(1000);
    return 0;
}

int teardown(void **state)
{
    hand_close(&a);
    hand_close(&b);
    test_clock = 0;
    return 0;
}

void write_conf(mode_t mode)
{
    int fd;

    snprintf(conf_path, sizeof(conf_path), "%s/vpn.conf", peer_folder());
    unlink(conf_path);
    fd = open(conf_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(write(fd, conf_text, strlen(conf_text)), strlen(conf_text));
    close(fd);
}

void add_conf(const char *fmt, ...)
{
    size_t n = strlen(conf_text);
    va_list args;

    va_start(args, fmt);
    vsnprintf(conf_text + n, sizeof(conf_text) - n, fmt, args);
    va_end(args);
}

void add_peer(const struct hand *h, bool endpoint, const char *more)
{
    add_conf("[Peer]\nPublicKey = %s\n", hand_public(h));
    if (endpoint)
        add_conf("Endpoint = 127.0.0.1:%u\n", ntohs(h->at.sin_port));
    add_conf("%s\n", more);
}

const char *chain_of(const char *options)
{
    static char chain[400];

    snprintf(chain, sizeof(chain), "vpn conf=%s local=127.0.0.1:%u %s", conf_path,
             ntohs(card.sin_port), options);
    return chain;
}

void start(const char *options)
{
    write_conf(0600);
    rig_start(chain_of(options));
}

/* Both peers, of which we begin with a. */
void start_two(const char *options)
{
    add_conf("[Interface]\nPrivateKey = %s\n", own_text);
    add_peer(&a, true, "");
    add_peer(&b, false, "");
    start(options);
    hand_answer(&a);
    hand_initiate(&b);
}

void pass(uint64_t ns)
{
    test_clock += ns;
    for (unsigned i = 0; i < 4; i++)
        rig_turn();
}

/* ---- Frames ---- */

static void put_mac(uint8_t *at, uint8_t number)
{
    static const uint8_t prefix[] = {0x52, 0x54, 0, 0, 0};

    memcpy(at, prefix, 5);
    at[5] = number;
    if (number == ALL)
        memset(at, 0xff, 6);
}

void make_frame(uint8_t from, uint8_t to, uint32_t length)
{
    frame_ether(&f, 0x88b5);
    put_mac(f.bytes, to);
    put_mac(f.bytes + 6, from);
    while (f.n < length)
        f.bytes[f.n++] = (uint8_t)randombytes_random();
    f.n = length;
}

void from_guest(uint8_t to)
{
    make_frame(GUEST, to, 200);
    assert_true(rig_send(f.bytes, f.n, NULL, 0));
}

void from_hand(struct hand *h, uint8_t from, uint8_t to)
{
    make_frame(from, to, 200);
    hand_frame(h, f.bytes, f.n);
}

void expect_guest(void)
{
    unsigned n = rig.guest.n;

    TURN_UNTIL(rig.guest.n > n);
    assert_int_equal(rig.guest.frames[n].length, f.n);
    assert_memory_equal(rig.guest.frames[n].data, f.bytes, f.n);
}

void expect_count(const char *counter, uint64_t n)
{
    TURN_UNTIL(rig_counter("vpn", counter) >= n);
    assert_int_equal(rig_counter("vpn", counter), n);
}

uint16_t mtu(void)
{
    return device_net_info(rig.dev)->mtu;
}

int vpn_rig_clean(void **state)
{
    peer_clean();
    return 0;
}

int vpn_rig_begin(void **state)
{
    struct dt_error err;

    return registry_add_net(&net_vpn, &err);
}
