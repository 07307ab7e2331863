/* SPDX-License-Identifier: MIT */
/*
 * bpf.c - see bpf.h.
 *
 * libpcap's compiler and interpreter. The interpreter reads within the packet only, and its programs have no
 * loops. Names in an expression are looked up while it is compiled: once a process is confined only numbers are known.
 */
#include "net/bpf/bpf.h"

#define LARGEST 65600

int bpf_compile(struct bpf *bpf, const char *text, struct dt_error *err)
{
    pcap_t *pcap = pcap_open_dead(DLT_EN10MB, LARGEST);
    struct bpf_program program;
    int ret = 0;

    if (!pcap)
        return dt_fail(err, -ENOMEM, "libpcap: no memory");
    if (pcap_compile(pcap, &program, text, 1, PCAP_NETMASK_UNKNOWN) < 0)
        ret = dt_fail(err, -EINVAL, "'%.200s': %s", text, pcap_geterr(pcap));
    pcap_close(pcap);
    if (ret == 0) {
        bpf_free(bpf);
        bpf->program = program;
    }
    return ret;
}

void bpf_free(struct bpf *bpf)
{
    pcap_freecode(&bpf->program); /* leaves it zeroed */
}
