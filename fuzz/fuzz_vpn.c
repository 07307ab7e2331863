/* SPDX-License-Identifier: MIT */
/*
 * fuzz_vpn.c - what the back `vpn` reads. The first byte of the input says what the rest is: a datagram, a handshake message
 * whose macs are right, what is in a datagram of a session, the same with GRE, a configuration, or saved state.
 * Forged input must leave the session as it was.
 */
#include "net/vpn/vpn.h"
#include "tests/unit/net_rig.h"

#include <arpa/inet.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/stat.h>

extern const struct dt_net_ext net_vpn;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAW, STAMPED, PLAIN, GRE, CONF, STATE, KINDS };
#define NUMBER 0x12340000u /* of the session with the first peer; the second's is one more */

static struct vpn *v;

static void write_conf(const char *path)
{
    FILE *file = fopen(path, "w");

    CHECK(file);
    fprintf(file, "[Interface]\nPrivateKey = QLj2YAyYtYkVLDvFDGbLdm9nXK+a5aNNnEmYJCyQ0Fw=\n"
                  "Address = 10.9.0.1/24\n"
                  "[Peer]\nPublicKey = CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
                  "[Peer]\nPublicKey = EAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
                  "AllowedIPs = 10.9.0.2/32\n");
    fclose(file);
    CHECK(chmod(path, 0600) == 0);
}

static void begin(void)
{
    static char path[] = "/tmp/devtap-fuzz-XXXXXX";
    char chain[160];
    int fd = mkstemp(path);

    CHECK(fd >= 0 && registry_add_net(&net_vpn, &rig.err) == 0);
    close(fd);
    write_conf(path);
    snprintf(chain, sizeof(chain), "vpn conf=%s local=127.0.0.1:0", path);
    test_clock = DT_S(1000);
    rig_start(chain);
    remove(path);
    v = dt_layer_data(rig.dev->layers[rig.dev->nlayers]);
}

/* Keys that are the same in both directions, so that what is sealed can be opened here. */
static void begin_sessions(void)
{
    for (unsigned i = 0; i < 2; i++) {
        struct vpn_peer *p = &v->mesh->peers[i];

        p->now = (struct wg_session){.live = true,
                                     .local = NUMBER + i,
                                     .remote = NUMBER + i,
                                     .born = dt_now(v->c),
                                     .keys = {{1}, {1}}};
        p->up = true;
    }
}

static void give(uint8_t *message, size_t n)
{
    const union vpn_address from = {.v4 = {.sin_family = AF_INET,
                                           .sin_port = htons(9),
                                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
    struct dt_packet *p = vpn_message(v, message, n, &from);

    if (!p)
        return;
    CHECK(p->length >= PORT_LEAST && !(p->data[6] & 1));
    dt_receive_one(v->c, p);
}

static void give_forged(uint8_t *bytes, size_t n, bool stamped)
{
    struct wg_remote to_us = {0};
    struct wg_pass none = {0};

    memcpy(to_us.mac1_key, v->mesh->self.mac1_key, WG_KEY);
    if (stamped && n >= sizeof(struct wg_macs))
        wg_stamp_macs(&none, &to_us, bytes, n, 0);
    give(bytes, n);
    CHECK(v->mesh->peers[0].now.newest == 0 && v->mesh->peers[0].now.live);
}

static void give_sealed(unsigned peer, const uint8_t *bytes, size_t n)
{
    struct wg_session other = v->mesh->peers[peer].now;
    uint8_t *message = xcalloc(1, n + WG_OVERHEAD);

    CHECK(wg_session_seal(v->cipher, &other, message, bytes, n) == n + WG_OVERHEAD);
    give(message, n + WG_OVERHEAD);
    CHECK(v->mesh->peers[peer].now.newest == 1);
    free(message);
}

static void read_conf(const uint8_t *bytes, size_t n)
{
    struct vpn_conf *conf = xcalloc(1, sizeof(*conf));
    char *text = xcalloc(1, n + 1);
    struct dt_error err;

    memcpy(text, bytes, n);
    if (vpn_conf_parse(conf, text, "conf", &err) == 0)
        CHECK(conf->has_private && conf->npeers >= 1 && conf->npeers <= VPN_PEERS);
    free(text);
    free(conf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ uint8_t *bytes = NULL;
    size_t n = size - 1;
    struct dt_error err;

    if (size < 1 || n > 60000)
        return 0;
    if (!v)
        begin();
    begin_sessions();
    bytes = xcalloc(1, n + 16);
    memcpy(bytes, data + 1, n);
    test_clock += DT_MS(100);
    switch (data[0] % KINDS) {
    case RAW:
    case STAMPED:
        give_forged(bytes, n, data[0] % KINDS == STAMPED);
        break;
    case PLAIN:
    case GRE:
        give_sealed(data[0] % KINDS == GRE, bytes, n);
        break;
    case CONF:
        read_conf(bytes, n);
        break;
    default:
        net_vpn.load(rig.dev->layers[rig.dev->nlayers], bytes, n, 1, &err);
    }
    rig_turn();
    rig_clear();
    return 0;
}
