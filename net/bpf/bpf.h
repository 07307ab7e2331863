/* SPDX-License-Identifier: MIT */
/* bpf.h - expressions as tcpdump takes them (pcap-filter(7)), on packets. */
#ifndef NET_BPF_H
#define NET_BPF_H

#include "base/base.h"
#include <devtap/net.h>

#include <pcap/pcap.h>

/** struct bpf - an expression, compiled; zeroed = one that nothing matches. */
struct bpf {
    struct bpf_program program;
};

/** bpf_compile() - replaces what @bpf was only if @text is right; else -EINVAL, with libpcap's words. */
int bpf_compile(struct bpf *bpf, const char *text, struct dt_error *err);
void bpf_free(struct bpf *bpf);

static inline bool bpf_matches(const struct bpf *bpf, const struct dt_packet *p)
{
    return bpf->program.bf_insns &&
           bpf_filter(bpf->program.bf_insns, p->data, p->length, p->length) != 0;
}

#endif
