/* SPDX-License-Identifier: MIT */
/*
 * qtest.c - the card of a QEMU that runs no guest: registers of a virtio-mmio device (virtio 1.2, 4.2.2) through the
 * qtest protocol, rings and buffers in the memory that QEMU maps, too. A kick is a line to QEMU's main loop, which
 * works on the card itself, so there is one for many packets.
 */
#include "bench/card/card.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define TRANSPORTS 0xfeb00000u /* of a machine `microvm` */
#define STRIDE     512u
#define NTRANSPORT 32u
#define MAGIC      0x74726976u
#define STATUS_OK  15u /* acknowledged, driver, features, ready */

enum reg {
    REG_MAGIC = 0,
    REG_DEVICE = 8,
    REG_OFFERED = 0x10,
    REG_OFFERED_WORD = 0x14,
    REG_AGREED = 0x20,
    REG_AGREED_WORD = 0x24,
    REG_QUEUE = 0x30,
    REG_QUEUE_SIZE = 0x38,
    REG_QUEUE_READY = 0x44,
    REG_NOTIFY = 0x50,
    REG_STATUS = 0x70,
    REG_DESC = 0x80,
    REG_DRIVER = 0x90,
    REG_USED = 0xa0,
};

static uint32_t base = TRANSPORTS;

static uint64_t ask(int fd, const char *question)
{
    char answer[64];
    size_t n = 0, length = strlen(question);

    if (write(fd, question, length) != (ssize_t)length)
        card_fail("qtest", strerror(errno));
    do {
        ssize_t r = read(fd, answer + n, sizeof(answer) - 1 - n);

        if (r <= 0)
            card_fail("qtest", "QEMU has ended");
        n += (size_t)r;
    } while (answer[n - 1] != '\n' && n < sizeof(answer) - 1);
    answer[n] = '\0';
    if (strncmp(answer, "OK", 2) != 0)
        card_fail("qtest", answer);
    return n > 3 ? strtoull(answer + 3, NULL, 0) : 0;
}

static uint32_t get(int fd, enum reg reg)
{
    char line[64];

    snprintf(line, sizeof(line), "readl 0x%x\n", base + reg);
    return (uint32_t)ask(fd, line);
}

static void set(int fd, enum reg reg, uint32_t value)
{
    char line[64];

    snprintf(line, sizeof(line), "writel 0x%x 0x%x\n", base + reg, value);
    ask(fd, line);
}

static void set_address(int fd, enum reg reg, uint64_t value)
{
    set(fd, reg, (uint32_t)value);
    set(fd, reg + 4, (uint32_t)(value >> 32));
}

static void kick_line(struct card *card, enum card_ring ring)
{
    set(card->qtest, REG_NOTIFY, ring);
}

static void find_card(int fd)
{
    for (unsigned i = 0; i < NTRANSPORT; i++, base += STRIDE)
        if (get(fd, REG_MAGIC) == MAGIC && get(fd, REG_DEVICE) == 1)
            return;
    card_fail("qtest", "the machine has no card");
}

static void agree(struct card *card)
{
    uint64_t offered = 0;
    int fd = card->qtest;

    set(fd, REG_STATUS, 0);
    set(fd, REG_STATUS, 3);
    for (unsigned word = 0; word < 2; word++) {
        set(fd, REG_OFFERED_WORD, word);
        offered |= (uint64_t)get(fd, REG_OFFERED) << 32 * word;
    }
    card->features = card_wanted(offered);
    for (unsigned word = 0; word < 2; word++) {
        set(fd, REG_AGREED_WORD, word);
        set(fd, REG_AGREED, (uint32_t)(card->features >> 32 * word));
    }
    set(fd, REG_STATUS, 11);
    if (get(fd, REG_STATUS) != 11)
        card_fail("qtest", "QEMU does not agree to these features");
}

void card_open_qemu(struct card *card, const char *qtest, const char *memory)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = open(memory, O_RDWR | O_CLOEXEC);

    card->memory = mmap(NULL, CARD_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || card->memory == MAP_FAILED)
        card_fail(memory, strerror(errno));
    card->qtest = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof(at.sun_path), "%s", qtest);
    if (connect(card->qtest, (struct sockaddr *)&at, sizeof(at)) < 0)
        card_fail(qtest, strerror(errno));
    find_card(card->qtest);
    agree(card);
    card_rings_init(card);
    card->kick = kick_line;
    for (unsigned i = 0; i < CARD_RINGS; i++) {
        const struct virtq_driver *d = &card->rings[i];

        set(card->qtest, REG_QUEUE, i);
        set(card->qtest, REG_QUEUE_SIZE, d->size);
        set_address(card->qtest, REG_DESC, d->addr + d->desc_off);
        set_address(card->qtest, REG_DRIVER, d->addr + d->driver_off);
        set_address(card->qtest, REG_USED, d->addr + d->device_off);
        set(card->qtest, REG_QUEUE_READY, 1);
    }
    set(card->qtest, REG_STATUS, STATUS_OK);
}
