/* SPDX-License-Identifier: MIT */
/*
 * nfq-relay.c - the rival of thesis figure 3.17: every packet goes through a program by way of the kernel's
 * netfilter queue 0, and is accepted there. bench/thesis-network runs it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/netfilter.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

static int accept_packet(struct nfq_q_handle *queue, struct nfgenmsg *message,
                         struct nfq_data *data, void *arg)
{
    const struct nfqnl_msg_packet_hdr *header = nfq_get_msg_packet_hdr(data);

    return header ? nfq_set_verdict(queue, ntohl(header->packet_id), NF_ACCEPT, 0, NULL) : 0;
}

int main(void)
{
    static char buffer[1 << 17] __attribute__((aligned(8)));
    struct nfq_handle *handle = nfq_open();
    struct nfq_q_handle *queue = handle ? nfq_create_queue(handle, 0, accept_packet, NULL) : NULL;

    if (!queue || nfq_set_mode(queue, NFQNL_COPY_PACKET, 0xffff) < 0) {
        perror("nfq-relay");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        ssize_t n = recv(nfq_fd(handle), buffer, sizeof(buffer), 0);

        if (n >= 0)
            nfq_handle_packet(handle, buffer, (int)n);
        else if (errno != ENOBUFS) /* the queue was full, and the kernel dropped */
            break;
    }
    perror("nfq-relay");
    return 1;
}
